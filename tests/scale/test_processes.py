"""Training is killed at random moments, or asked for by two processes at once: it ends with the bits of a run left alone."""

import multiprocessing
import os
import random
import runpy
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mastlib.runs import RunStore

HERE = Path(__file__).parent
TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 16), "image_size": 16, "images": 512,
    "batch_size": 32, "epochs": 8, "warmup_epochs": 1, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32",
    "memory_format": "contiguous", "compile": "off", "knn_every": 3,
}  # fmt: skip
STEPS = 128
METHODS = {
    "vicreg": {}, "moco": {"host": "moco", "queue": 48}, "byol": {"host": "byol"},
    "swav": {"host": "swav", "prototypes": 8, "freeze_prototypes": 0.25},
    "mast": {"awareness": "mast", "pairing": "isolate_one", "uncertainty": "reweight", "augmentations": "extended15"},
}  # fmt: skip
KILLS = 4  # of each method
TIMES = 20  # that two processes ask for a run

# A server that has imported the package once and forks processes from there, before any computation.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mastlib.training"])


def begin(script, **given):
    """A process that runs `script` with the names `given`."""
    child = processes.Process(target=runpy.run_path, args=(str(HERE / script), given))
    child.start()
    return child


def training(spec, root, in_write=0, held_bytes=4e9):
    """A process that trains, or is about to be killed in its n-th write, once it has begun to."""
    started = processes.Event()
    child = begin("killed.py", SPEC=spec, ROOT=root, STARTED=started, IN_WRITE=in_write, HELD_BYTES=held_bytes)
    while not started.wait(0.01) and child.is_alive():
        pass
    return child


def ended(child, kill_after=None):
    """Whether the process was killed, `kill_after` seconds from now or by itself; it must have ended well if not."""
    child.join(kill_after)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def same(a, b):
    """That the one finished run in each of two folders has the same weights and metrics, timing apart, and nothing else."""
    runs = [RunStore(root).finished(path.name) for root in (a, b) for path in root.iterdir()]
    assert len(runs) == 2 and all(run.info["status"] == "ok" for run in runs)
    one, other = (run.folder for run in runs)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for file in ("backbone.safetensors", "method.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    metrics = [run.metrics().drop(columns=["seconds", "images_per_second"]) for run in runs]
    pd.testing.assert_frame_equal(*metrics)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(name, tmp_path):
    spec = TINY | METHODS[name]
    child, begun = training(spec, tmp_path / "whole"), time.monotonic()
    assert not ended(child)
    seconds = time.monotonic() - begun
    draw, reached = random.Random(name), []
    for kill in range(KILLS):
        if kill == KILLS // 2:
            assert ended(training(spec, tmp_path / "killed", in_write=draw.randint(1, 6)))
        else:
            assert ended(training(spec, tmp_path / "killed"), kill_after=draw.uniform(0, 0.25 * seconds))
        left = (tmp_path / "killed").glob(".*.partial/resume/*.safetensors")
        reached.append(max((int(path.stem) for path in left), default=0))
    assert reached == sorted(reached) and 0 < reached[-1] < STEPS
    assert not ended(training(spec, tmp_path / "killed"))
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As many small pictures as TINY has images, in two classes."""
    root, draw = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for i in range(TINY["images"]):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.png")
    return root


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_streams_its_images_ends_with_the_bits_of_one_that_keeps_them_however_it_is_killed(
    name, folder, tmp_path
):
    spec = TINY | METHODS[name] | {"data": str(folder)}
    assert not ended(training(spec, tmp_path / "whole"))
    draw = random.Random(name)
    assert ended(training(spec, tmp_path / "killed", in_write=draw.randint(20, 60), held_bytes=0))
    assert ended(training(spec, tmp_path / "killed", held_bytes=0), kill_after=draw.uniform(0, 1))  # while others start
    left = (tmp_path / "killed").glob(".*.partial/resume/*.safetensors")
    assert 0 < max(int(path.stem) for path in left) < STEPS
    assert not ended(training(spec, tmp_path / "killed", held_bytes=0))
    same(tmp_path / "whole", tmp_path / "killed")


def test_a_process_that_waits_goes_on_where_a_killed_owner_was(tmp_path):
    assert not ended(training(TINY, tmp_path / "whole"))
    owner = training(TINY, tmp_path / "shared", in_write=STEPS // 2)
    waiting = training(TINY, tmp_path / "shared")  # returns when this one trains, after the owner's end
    assert ended(owner)
    assert not ended(waiting)
    same(tmp_path / "whole", tmp_path / "shared")


def test_of_two_that_ask_at_once_one_trains_and_both_get_the_run(tmp_path):
    barrier, answers = processes.Barrier(2), processes.Queue()
    given = {"SPEC": TINY | {"epochs": 2, "images": 128}, "ROOT": tmp_path, "SEEDS": list(range(TIMES))}
    both = [begin("racing.py", **given, BARRIER=barrier, ANSWERS=answers) for _ in range(2)]
    told = [answers.get(timeout=120) for _ in range(2 * TIMES)]
    assert not any(ended(child, 30) for child in both)
    for seed in range(TIMES):
        first, second = (rest for number, *rest in told if number == seed)
        assert first[:2] == second[:2] and first[1] == "ok"
        assert first[2] != second[2], "one of them trained"
    assert len(RunStore(tmp_path).runs()) == TIMES == len(list(tmp_path.iterdir()))
