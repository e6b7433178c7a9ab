"""`fit`: the same spec gives the same bits, another spec another run, and what cannot be trained says so."""

import json
import math
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mastlib import checkpoints, precision, training
from mastlib.augment.presets import get_pipeline
from mastlib.data.badges import Badges
from mastlib.data.pretraining import BADGE_SEED, pretraining_images
from mastlib.data.sources import Streamed
from mastlib.errors import InputError
from mastlib.methods import build_method
from mastlib.optim import learning_rate
from mastlib.precision import resolve
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import batches, fit, identify

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=128, batch_size=32,
    epochs=2, warmup_epochs=1, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous",
)  # fmt: skip
MAST = TINY.replace(awareness="mast", pairing="isolate_one")


# What has more state than weights: masks, a queue and a slow copy, a rising momentum, prototypes, labels, conditions, heads.
STATEFUL = {
    "vicreg": TINY, "mast": MAST, "supervised": TINY.replace(host="supervised", projector=()),
    "moco": TINY.replace(host="moco", queue=48, awareness="augself"), "byol": TINY.replace(host="byol"),
    "swav": TINY.replace(host="swav", prototypes=8, freeze_prototypes=0.25),
    "simsiam": TINY.replace(host="simsiam", awareness="cassle", augmentations="standard5"),
    "looc": TINY.replace(host="moco", queue=48, awareness="looc", pairing="leave_one_out", augmentations="standard5"),
}  # fmt: skip
STATEFUL["channels last"] = TINY.replace(
    memory_format="channels_last", precision="bf16", width=16, image_size=32, lr=0.012, weight_decay=0.05
)
STATEFUL["badge"] = MAST.replace(badge=0.3)
STATEFUL["looc, badge"] = STATEFUL["looc"].replace(badge=0.3)
STATEFUL["looc++"] = STATEFUL["looc"].replace(looc_stages=True)


@pytest.mark.parametrize("spec", STATEFUL.values(), ids=STATEFUL)
def test_the_same_spec_gives_bit_equal_weights_and_metrics(spec, tmp_path):
    a, b = (fit(spec, progress=False, store=RunStore(tmp_path / name)) for name in "ab")
    assert a.id == b.id
    assert (a.folder / "backbone.safetensors").read_bytes() == (b.folder / "backbone.safetensors").read_bytes()
    timing = ["seconds", "images_per_second"]
    assert a.metrics().drop(columns=timing).equals(b.metrics().drop(columns=timing))


def same(a, b):
    """Two runs with the same weights and metrics, timing apart, to the last bit."""
    for part in ("backbone", "method"):
        name = f"{part}.safetensors"
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()
    timing = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(a.metrics().drop(columns=timing), b.metrics().drop(columns=timing))


@pytest.mark.parametrize("spec", STATEFUL.values(), ids=STATEFUL)
def test_a_run_that_was_ended_goes_on_and_ends_with_the_same_bits(spec, tmp_path, monkeypatch):
    """Ended in the middle of its third epoch; the second process takes the steps of that epoch and no earlier one."""
    monkeypatch.setattr("mastlib.resume.SHARE", 1e9)  # epochs of milliseconds: saving may take as long as it takes
    spec = spec.replace(epochs=3, knn_every=1)
    whole = fit(spec, progress=False, store=RunStore(tmp_path / "whole"))
    steps, taken = 4, []

    def rate(spec, step, per_epoch, stop_at):
        if step == stop_at:
            raise KeyboardInterrupt
        taken.append(step)
        return learning_rate(spec, step, per_epoch)

    monkeypatch.setattr(training, "learning_rate", partial(rate, stop_at=2 * steps + 1))
    with pytest.raises(KeyboardInterrupt):
        fit(spec, progress=False, store=RunStore(tmp_path / "ended"))
    taken.clear()
    monkeypatch.setattr(training, "learning_rate", partial(rate, stop_at=None))
    ended = fit(spec, progress=False, store=RunStore(tmp_path / "ended"))
    assert min(taken) == 2 * steps
    same(whole, ended)
    assert sorted(path.name for path in ended.folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [0, 5, 7, 11])  # first step, middle of an epoch, last step of an epoch, of the run
def test_a_signal_saves_after_the_step_and_the_next_process_goes_on_from_there(number, stop_at, tmp_path, monkeypatch):
    spec, taken = MAST.replace(epochs=3), []
    whole = fit(spec, progress=False, store=RunStore(tmp_path / "whole"))

    def rate(spec, step, per_epoch):
        if not taken or step > taken[-1]:  # of steps, not of the rows that an epoch logs
            taken.append(step)
            if step == stop_at:
                signal.raise_signal(number)
        return learning_rate(spec, step, per_epoch)

    before = signal.getsignal(number)
    monkeypatch.setattr(training, "learning_rate", rate)
    store = RunStore(tmp_path / "ended")
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
        fit(spec, progress=False, store=store)
    assert number == signal.SIGINT or ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert taken[-1] == stop_at and store.finished(whole.id) is None
    info = json.loads((store.root / f".{whole.id}.partial" / "run.json").read_text())
    assert info["status"] == "interrupted"
    taken.clear()
    monkeypatch.setattr(signal, "raise_signal", lambda number: pytest.fail("a step taken twice"))
    again = fit(spec, progress=False, store=store)
    assert [step for step in taken if step < 12] == list(range(stop_at + 1, 12))
    same(whole, again)


def test_a_signal_that_comes_too_late_to_stop_a_run_stops_what_comes_after_it(tmp_path, monkeypatch):
    read = training.Monitors.read

    def late(self, backbone):
        signal.raise_signal(signal.SIGINT)
        return read(self, backbone)

    monkeypatch.setattr(training.Monitors, "read", late)
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, progress=False, store=RunStore(tmp_path))
    assert RunStore(tmp_path).runs()["status"].tolist() == ["ok"]


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "pickled"])
@pytest.mark.parametrize("which", ["last", "both"])
def test_damaged_checkpoints_are_named_and_the_one_before_or_the_start_is_gone_on_from(
    how, which, tmp_path, monkeypatch
):
    monkeypatch.setattr("mastlib.resume.SHARE", 1e9)
    whole, taken = fit(TINY, progress=False, store=RunStore(tmp_path / "whole")), []

    def rate(spec, step, per_epoch, stop_at):
        if step == stop_at:
            raise KeyboardInterrupt
        taken.append(step)
        return learning_rate(spec, step, per_epoch)

    monkeypatch.setattr(training, "learning_rate", partial(rate, stop_at=6))
    store = RunStore(tmp_path / "ended")
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, progress=False, store=store, checkpoint_seconds=0)
    files = checkpoints.found(store.root / f".{whole.id}.partial" / "resume")
    assert [int(path.stem) for path in files] == [5, 6]
    for path in files if which == "both" else files[1:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        damaged = {"cut": content[:-100], "flipped": content, "pickled": pickle.dumps({"facts": 1})}
        path.unlink() if how == "missing" else path.write_bytes(damaged[how])
    taken.clear()
    monkeypatch.setattr(training, "learning_rate", partial(rate, stop_at=None))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ended = fit(TINY, progress=False, store=store)
    named = [str(one.message).partition(" is no whole checkpoint")[0] for one in warned]
    broken = [] if how == "missing" else [str(path) for path in reversed(files if which == "both" else files[1:])]
    assert [name for name in named if name.endswith(".safetensors")] == broken
    assert min(taken) == (5 if which == "last" else 0)
    same(whole, ended)


def test_a_run_in_another_thread_is_trained_and_signals_are_left_alone(tmp_path):
    before, made = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: made.append(fit(TINY, progress=False, store=RunStore(tmp_path))))
    thread.start()
    thread.join()
    assert made[0].info["status"] == "ok" and signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("seconds", [-1, math.nan, "5"])
def test_a_bad_time_between_checkpoints_is_refused(seconds, tmp_path):
    with pytest.raises(InputError, match="checkpoint_seconds"):
        fit(TINY, store=RunStore(tmp_path), checkpoint_seconds=seconds)
    assert not any(tmp_path.iterdir())


def test_a_finished_run_is_read_not_trained(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    first = fit(TINY, progress=False, store=store)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    assert fit(TINY, progress=False, store=store).id == first.id


def test_a_changed_loss_weight_or_seed_is_another_run(tmp_path):
    store = RunStore(tmp_path)
    ids = {
        fit(s, progress=False, store=store).id for s in (TINY, TINY.replace(seed=1), TINY.replace(invariance_weight=24))
    }
    assert len(ids) == 3


def test_a_run_holds_what_its_method_needs_and_the_backbone_nothing_else(tmp_path):
    run = fit(MAST, progress=False, store=RunStore(tmp_path))
    method = build_method(MAST, get_pipeline("vicreg", 16).names)
    method.load_state_dict(run.weights("method"), strict=True)
    method.backbone.load_state_dict(run.weights("backbone"), strict=True)
    assert run.info["status"] == "ok" and run.info["augmentations"] == list(get_pipeline("vicreg", 16).names)
    frame = run.metrics()
    assert list(frame["epoch"]) == [1, 2]
    assert math.isnan(frame["knn"][0]) and 0 <= frame["knn"][1] <= 1  # knn_every = 0: at the end only
    assert frame["lr"].iloc[-1] == pytest.approx(1e-3 * 32 / 256 / 1000)


def test_badges_are_laid_over_the_augmented_views_of_their_images_and_without_them_none_is_made(tmp_path, monkeypatch):
    made, laid, store = [], [], RunStore(tmp_path)

    class Seen(training.Badges):
        def lay(self, views, index):
            laid.append((index, torch.equal(views, made[-1]), super().lay(views, index), views.clone()))

    def views(*given, plain=training.make_views):
        found = plain(*given)
        made.append(found.images.clone())
        return found

    monkeypatch.setattr(training, "make_views", views)
    monkeypatch.setattr(training, "Badges", Seen)
    fit(TINY.replace(badge=0.5), progress=False, store=store)
    with_badges, made[:] = list(made), []
    expected = [batch for epoch in range(2) for batch in batches(0, epoch, 128, 32)]
    assert [index.tolist() for index, *_ in laid] == [batch.tolist() for batch in expected]
    for (index, untouched, _, shown), plain in zip(laid, with_badges, strict=True):
        Badges(0.5, 16, BADGE_SEED).lay(plain, index)
        assert untouched and torch.equal(shown, plain)
    monkeypatch.setattr(training, "Badges", lambda *_: pytest.fail("no badge is asked for"))
    fit(TINY, progress=False, store=store)
    assert len(made) == 8


def test_epochs_visit_every_image_once_in_an_order_of_their_own():
    def order(seed, epoch):
        return torch.cat(list(batches(seed, epoch, 64, 16))).tolist()

    assert sorted(order(0, 0)) == list(range(64)) and order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert len(list(batches(0, 0, 64, 24))) == 2  # a last, smaller batch is dropped


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_as_diverged(broken, tmp_path, monkeypatch):
    original = training.build_method

    def build(spec, *rest):
        method = original(spec, *rest)
        objective, calls = method.objective, iter(range(1000))

        def poisoned(encoded, *rest):
            z1 = encoded.embeddings[0]
            parts = objective(encoded, *rest)
            if next(calls) >= 5:
                nan = torch.tensor(math.nan)
                # sqrt has an infinite slope at 0: the loss stays finite, its gradient does not
                parts["loss"] = parts["loss"] * nan if broken == "loss" else parts["loss"] + (z1.sum() * 0).sqrt()
            return parts

        method.objective = poisoned
        return method

    monkeypatch.setattr(training, "build_method", build)
    run = fit(TINY, progress=False, store=RunStore(tmp_path))
    assert run.info["status"] == "diverged"
    assert "step 5" in run.info["reason"] and broken in run.info["reason"]
    assert len(run.metrics()) == 1


def test_a_run_whose_features_hold_nothing_is_called_collapsed(tmp_path):
    spec = TINY.replace(variance_weight=0.0, covariance_weight=0.0, lr=1.0, epochs=15)
    run = fit(spec, progress=False, store=RunStore(tmp_path))
    assert run.info["status"] == "collapsed" and "rank" in run.info["reason"]


def test_auto_is_decided_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    spec = TINY.replace(precision="auto", memory_format="auto")
    times = {("fp32", "contiguous"): 1.0, ("bf16", "contiguous"): 2.0}
    times |= {("fp32", "channels_last"): 0.95, ("bf16", "channels_last"): 0.5}
    monkeypatch.setattr(precision, "_step_seconds", lambda spec, device, *option: times[option])
    chosen = resolve(spec)
    assert (chosen.precision, chosen.memory_format) == ("bf16", "channels_last")
    times[("bf16", "channels_last")] = 100.0
    assert resolve(spec) == chosen
    kept = resolve(TINY.replace(width=5, precision="fp32", memory_format="auto"))
    assert (kept.precision, kept.memory_format) == ("fp32", "contiguous")  # 5 % is not clearly faster


def test_of_two_that_ask_for_a_precision_at_once_one_decides_for_both(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    timed: list[str] = []

    def seconds(spec, device, option, memory_format):
        """The first to ask finds bf16 faster, a second one would find fp32."""
        timed.append(option)
        time.sleep(0.2)
        return 1.0 if (option == "bf16") == (len(timed) <= 2) else 2.0

    monkeypatch.setattr(precision, "_step_seconds", seconds)
    spec = TINY.replace(width=6, precision="auto")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(resolve, [spec, spec]))
    assert timed == ["fp32", "bf16"] and [one.precision for one in answers] == ["bf16", "bf16"]


def test_auto_is_decided_anew_for_a_backbone_with_more_stages(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    asked = []
    monkeypatch.setattr(precision, "_step_seconds", lambda spec, *_: asked.append(spec.looc_stages) or 1.0)
    looc = STATEFUL["looc"].replace(precision="auto")
    for spec in (looc, looc.replace(looc_stages=True), looc.replace(looc_stages=True)):
        resolve(spec)
    assert asked == [False, False, True, True]  # two precisions each, and once remembered


@pytest.mark.parametrize("works", [True, False])
def test_auto_compiles_long_runs_where_that_works(monkeypatch, works):
    monkeypatch.setattr(precision, "can_compile", lambda device: works)
    long = TINY.replace(images=precision.COMPILED_PIXELS // TINY.image_size**2, epochs=2)
    assert resolve(long).compile == ("on" if works else "off")
    assert resolve(TINY).compile == resolve(long.replace(compile="off")).compile == "off"
    assert resolve(TINY.replace(compile="on")).compile == "on"


@pytest.mark.parametrize("compile", ["on", "off"])
def test_the_setting_reaches_the_pipeline(monkeypatch, tmp_path, compile):
    made = []
    monkeypatch.setattr(training, "_train", lambda spec, pipeline, *rest: made.append(pipeline.compiled))
    with pytest.raises(AssertionError):  # nothing was trained, so nothing is found
        fit(TINY.replace(compile=compile), progress=False, store=RunStore(tmp_path))
    assert made == [compile == "on"]


def test_what_the_augmentations_cannot_do_is_said_before_training(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(InputError, match="without"):
        fit(TINY.replace(without=["colour"]), progress=False, store=store)
    assert not store.root.exists() or not list(store.root.iterdir())


def test_other_peoples_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(TINY, progress=False, store=RunStore(tmp_path))
    assert torch.equal(torch.rand(3), expected)


def test_training_needs_no_notebook_package(tmp_path):
    """On a bare node with none of these installed, import and training must work."""
    code = f"""
import sys
from functools import partial
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"papermill", "IPython", "ipykernel", "ipywidgets", "jupyterlab", "jupyter_book", "nbformat",
                                  "captum", "myst_nb", "sphinx", "nbclient"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import json
import mastlib.chapter, mastlib.study, mastlib.plots, mastlib.worker, mastlib.__main__
from mastlib.training import fit
from mastlib.runs import RunStore
from mastlib.optim import learning_rate
from mastlib.spec import RunSpec
from pathlib import Path
spec = RunSpec.from_dict(json.loads({json.dumps(json.dumps(TINY.to_dict()))}))
run = fit(spec, progress=False, store=RunStore(Path({str(tmp_path)!r})))
print(run.info["status"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr[-2000:]


def test_images_of_the_smallest_size_can_be_trained_on():
    assert pretraining_images("openemoji", 128, 16).shape == (128, 3, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """150 noisy pictures of three classes."""
    root, draw = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for i in range(150):
        (root / "abc"[i % 3]).mkdir(exist_ok=True)
        pixels = draw.integers(0, 120, (20, 20 + i % 5, 3)) + 100 * np.eye(3, dtype=int)[i % 3]
        Image.fromarray(pixels.astype(np.uint8)).save(root / "abc"[i % 3] / f"{i}.png")
    return root


@pytest.mark.parametrize("changes", [{}, {"host": "supervised", "projector": ()}], ids=["vicreg", "supervised"])
def test_a_run_on_a_folder_ends_with_the_same_bits_kept_or_streamed_or_ended_within_an_epoch(
    changes, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("mastlib.data.sources.WORKERS", 1)  # each takes seconds to start
    spec = TINY.replace(data=folder, epochs=3, knn_every=1, **changes)
    kept = fit(spec, progress=False, store=RunStore(tmp_path / "kept"))
    streamed = []
    batches_of = Streamed.batches
    monkeypatch.setattr(Streamed, "batches", lambda self, order: streamed.append(1) or batches_of(self, order))
    same(kept, fit(spec, progress=False, store=RunStore(tmp_path / "streamed"), held_bytes=0))
    assert streamed == [1], "one stream for the whole run"
    knn = kept.metrics()["knn"]
    assert kept.info["status"] == "ok" and ((knn >= 0) & (knn <= 1)).all()

    def rate(spec, step, per_epoch):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return learning_rate(spec, step, per_epoch)

    monkeypatch.setattr(training, "learning_rate", rate)
    store = RunStore(tmp_path / "ended")
    with pytest.raises(SystemExit):
        fit(spec, progress=False, store=store, held_bytes=0)
    assert not torch.multiprocessing.active_children()
    assert int(checkpoints.found(store.working(store.unfinished()[0]) / "resume")[-1].stem) == 7
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    monkeypatch.setattr(training, "learning_rate", learning_rate)
    ended = fit(spec.replace(data=str(moved)), progress=False, store=store, held_bytes=0)
    assert ended.id == kept.id and ended.spec.data == str(moved)
    for part in ("backbone", "method"):
        name = f"{part}.safetensors"
        assert (kept.folder / name).read_bytes() == (ended.folder / name).read_bytes()


def test_another_file_in_the_folder_is_another_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    spec = TINY.replace(data=tmp_path / "copy")
    identity = identify(spec)[1]
    assert identify(TINY.replace(data=folder))[1] == identity != identify(TINY)[1]
    (tmp_path / "copy" / "a" / "new.png").touch()
    assert identify(spec)[1] != identity


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": 151}, "images = 151 cannot be used; accepted: at most 150"),
        ({"data": "nowhere"}, "data = 'nowhere'"),
    ],
)
def test_what_a_folder_cannot_give_is_said_in_a_line(changes, word, folder, tmp_path):
    with pytest.raises(InputError, match=word) as refusal:
        fit(TINY.replace(**{"data": folder, **changes}), progress=False, store=RunStore(tmp_path / "runs"))
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "runs").glob("*")), "nothing was begun"


@pytest.mark.parametrize("value", [-1, math.nan, "5"])
def test_a_bad_budget_is_refused(value, tmp_path):
    with pytest.raises(InputError, match="held_bytes"):
        fit(TINY, store=RunStore(tmp_path), held_bytes=value)
