"""Images of a folder are the same bytes, decoded once or streamed, and nothing is left of the processes that decode."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mastlib.data import bank, sources
from mastlib.data.folders import decode
from mastlib.data.pools import load_pool
from mastlib.data.pretraining import pretraining_images, pretraining_labels
from mastlib.data.sources import Held, Streamed, source_of
from mastlib.errors import InputError
from mastlib.files import outputs_dir
from mastlib.monitors import Monitors

SIZE, COUNT = 16, 90


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of COUNT small pictures in three classes, of several sizes and kinds."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(COUNT):
        (folder / "abc"[i % 3]).mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (20 + i % 7, 30 - i % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "abc"[i % 3] / f"{i:03d}{('.png', '.jpg', '.webp')[i // 3 % 3]}")
    return folder


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    """Each takes seconds to start."""
    monkeypatch.setattr(sources, "WORKERS", 1)


def collected(images, order):
    """Everything that comes for `order`."""
    with contextlib.closing(images.batches(iter(order))) as stream:
        return [(batch.clone(), pixels.clone()) for batch, pixels in stream]


ORDER = [torch.tensor([5, 1, 80]), torch.arange(70), torch.tensor([89]), torch.arange(64, 32, -1)]


def test_kept_and_streamed_images_are_the_files_in_the_order_that_is_asked(root, monkeypatch):
    monkeypatch.setattr(sources, "_workers", lambda: 2)
    source = source_of(str(root))
    held, streamed = source.images(COUNT, SIZE), source.images(COUNT, SIZE, held_bytes=0)
    assert isinstance(held, Held) and isinstance(streamed, Streamed) and len(held) == len(streamed) == COUNT
    peer = torch.stack([decode(root / name, SIZE) for name in source.folder.names])
    for images in (held, streamed):
        found = collected(images, ORDER)
        assert len(found) == len(ORDER)
        for asked, (batch, pixels) in zip(ORDER, found, strict=True):
            assert torch.equal(batch, asked) and torch.equal(pixels, peer[asked]) and pixels.dtype == torch.uint8
    assert collected(streamed, []) == []


def test_what_fits_the_budget_is_kept_and_decoded_once(root, monkeypatch):
    source = source_of(str(root))
    takes = 70 * 3 * SIZE**2
    assert isinstance(source.images(70, SIZE, takes), Held) and isinstance(source.images(70, SIZE, takes - 1), Streamed)
    monkeypatch.setattr(sources.Streamed, "batches", lambda *_: pytest.fail("decoded again"))
    again = source_of(str(root)).images(70, SIZE, takes)
    again.images[:] = 0
    assert source.images(70, SIZE, takes).images.any(), "writing to images does not change the file"


def test_fewer_images_are_a_fixed_choice_out_of_all_classes(root):
    source = source_of(str(root))
    images, (labels, names) = source.images(66, SIZE), source.labels(66)
    assert len(images) == len(labels) == 66 and names == ["a", "b", "c"]
    assert torch.equal(images.images, source_of(str(root)).images(66, SIZE).images)
    counts = labels.bincount(minlength=3)
    assert counts.min() >= 15, "the first 66 would be two classes and a few of the third"
    pixels = {decode(root / name, SIZE).numpy().tobytes(): name[0] for name in source.folder.names}
    assert [pixels[image.numpy().tobytes()] for image in images.images] == ["abc"[label] for label in labels]
    everything, _ = source.labels(COUNT)
    assert everything.tolist() == [0] * 30 + [1] * 30 + [2] * 30 and everything.dtype == torch.long


def test_more_images_than_there_are_are_refused(root):
    source = source_of(str(root))
    for call in (lambda: source.images(COUNT + 1, SIZE), lambda: source.labels(COUNT + 1)):
        with pytest.raises(InputError) as refusal:
            call()
        assert str(refusal.value) == f"images = 91 cannot be used; accepted: at most 90, the images in {root}"


def test_a_folder_without_classes_has_no_labels_and_watches_rank_alone(tmp_path):
    for i in range(20):
        Image.new("RGB", (9, 9), (i, 2 * i, 255 - i)).save(tmp_path / f"{i}.png")
    source = source_of(str(tmp_path))
    with pytest.raises(InputError) as refusal:
        source.labels(20)
    said = str(refusal.value)
    assert (
        said.startswith("host = 'supervised' cannot be used; accepted: another host with data = ") and "\n" not in said
    )
    images, labels, query = source.watched(SIZE)
    assert labels is None and len(images) == 20 and query.sum() == 10
    read = Monitors(images, labels, query).read(torch.nn.Flatten())
    assert np.isnan(read["knn"]) and read["rank"] > 0


def test_watched_images_are_spread_over_the_folder_with_their_classes(root, monkeypatch):
    monkeypatch.setattr(sources, "WATCHED_IMAGES", 30)
    source = source_of(str(root))
    images, labels, query = source.watched(SIZE)
    pixels = {decode(root / name, SIZE).numpy().tobytes(): name for name in source.folder.names}
    shown = [pixels[image.numpy().tobytes()] for image in images]
    assert len(set(shown)) == 30 and labels.tolist() == ["abc".index(name[0]) for name in shown]
    assert labels.bincount().min() >= 9 and labels[query].bincount().min() >= 4 and labels[~query].bincount().min() >= 4
    assert len(set(labels[:10].tolist())) == 3, "a stretch of them has all classes in it"
    assert torch.equal(source_of(str(root)).watched(SIZE)[0], images)


def test_the_bank_is_what_it_was():
    source = source_of("openemoji")
    assert source.fingerprint == bank.fingerprint()
    images = source.images(64, SIZE, held_bytes=0)
    assert isinstance(images, Held) and torch.equal(images.images, pretraining_images("openemoji", 64, SIZE))
    labels, names = source.labels(64)
    assert (
        torch.equal(labels, pretraining_labels("openemoji", 64)[0]) and names == pretraining_labels("openemoji", 64)[1]
    )
    shown, categories, query = source.watched(SIZE)
    pool = load_pool("objects", SIZE, limit=4096)
    table = pool.table[(pool.table["split"] != "test") & pool.table["category"].notna()]
    assert torch.equal(shown, pool.images[torch.tensor(table.index.to_numpy())])
    assert query.tolist() == (table["split"] == "val").tolist() and len(categories) == len(table)


def test_a_moved_folder_has_the_same_fingerprint(root, tmp_path):
    (tmp_path / "elsewhere").symlink_to(root)
    assert source_of(str(tmp_path / "elsewhere")).fingerprint == source_of(str(root)).fingerprint


def test_a_file_that_cannot_be_decoded_is_named_in_a_line_and_the_processes_end(root, tmp_path):
    for name in ("1.png", "2.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:45])
    source = source_of(str(tmp_path))
    stream = source.images(3, SIZE, held_bytes=0).batches([torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([1])])
    assert len(next(stream)[1]) == 1 and len(children()) == 1
    with pytest.raises(InputError) as refusal:
        next(stream)
    said = str(refusal.value)
    assert said.startswith(f"data: {str(tmp_path / '3.png')!r} cannot be decoded (") and "\n" not in said
    assert children() == []
    before = sorted(path.name for path in (outputs_dir() / "cache").iterdir())
    with pytest.raises(InputError, match=r"3\.png"):
        source.images(3, SIZE)
    assert sorted(path.name for path in (outputs_dir() / "cache").iterdir()) == before, "nothing half decoded is kept"


def children():
    """Ids of the processes that decode for this one."""
    return [process.pid for process in torch.multiprocessing.active_children() if process.daemon]


def test_nobody_s_random_numbers_are_used_and_no_process_is_left(root):
    images = source_of(str(root)).images(COUNT, SIZE, held_bytes=0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = torch.get_rng_state()
    stream = images.batches([torch.arange(8)] * 50)
    next(stream)
    assert len(children()) >= 1
    stream.close()
    assert children() == []
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.random() == np.random.RandomState(5).random()  # noqa: NPY002


def test_requests_to_stop_reach_this_process_and_not_those_that_decode(root):
    """As a terminal or a scheduler sends them: to all processes."""
    got = []
    before = {number: signal.signal(number, lambda number, _: got.append(number)) for number in sources.STOPPING}
    try:
        stream = source_of(str(root)).images(COUNT, SIZE, held_bytes=0).batches([torch.arange(40)] * 30)
        next(stream)
        for number in sources.STOPPING:
            for process in [*children(), os.getpid()]:
                os.kill(process, number)
        assert len(list(stream)) == 29 and sorted(got) == sorted(sources.STOPPING)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(sources.STOPPING)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_process_that_was_killed_is_told_of_in_a_line(root):
    stream = source_of(str(root)).images(COUNT, SIZE, held_bytes=0).batches([torch.arange(40)] * 10_000)
    next(stream)
    for process in children():
        os.kill(process, signal.SIGKILL)
    with pytest.raises((InputError, RuntimeError)) as refusal:  # the latter where the signal comes between two batches
        for _ in stream:
            pass
    assert "\n" not in str(refusal.value).strip()
    stream.close()
    assert children() == []


@pytest.mark.parametrize(
    "error", [RuntimeError("worker (pid 7) is killed"), ConnectionResetError(104, "reset"), EOFError()]
)
def test_a_process_that_ends_while_it_hands_a_piece_over_is_told_of_too(root, error):
    def broken():
        raise error
        yield

    with pytest.raises(InputError, match=r"a process that reads .* ended"):
        source_of(str(root)).images(COUNT, SIZE, held_bytes=0)._next(broken())


SCRIPT = """
import os, sys, torch
from multiprocessing import active_children
from mastlib.data import sources
from mastlib.data.sources import source_of
sources.WORKERS = 1
def at_once(self, stream):
    print(*(process.pid for process in active_children()), flush=True)
    os.kill(os.getpid(), 9)
if "{ending}" == "killed while they start":
    sources.Streamed._next = at_once
stream = source_of(sys.argv[1]).images({count}, {size}, held_bytes=0).batches([torch.arange(64)] * 1000)
next(stream)
print(*(process.pid for process in active_children()), flush=True)
{then}
"""
ENDINGS = {
    "killed while they start": ("", -9),
    "killed": ("os.kill(os.getpid(), 9)", -9),
    "left open": ("", 0),
    "raised": ("raise SystemExit(3)", 3),
    "in a thread": (
        "import threading, time\nthreading.Thread(target=lambda: list(stream), daemon=True).start(); time.sleep(.1)",
        0,
    ),
}


def alive(process):
    """Whether a process, perhaps of another parent, runs."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_program_ends_its_processes_do_too_and_it_needs_no_main_guard(ending, root, tmp_path):
    then, code = ENDINGS[ending]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(count=COUNT, size=SIZE, then=then, ending=ending))
    done = subprocess.run(
        [sys.executable, str(script), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=120,
    )
    workers = done.stdout.split()
    assert done.returncode == code and workers and done.stdout.count("\n") == 1
    until = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))
