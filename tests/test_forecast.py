"""What is to train, and how long by the runs that are there, on runs whose times we wrote."""

from __future__ import annotations

import json

import pytest

from mastlib.forecast import Forecast, forecast
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=64, batch_size=32, epochs=2,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip
MASKED = TINY.replace(awareness="mast", pairing="isolate_one")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def took(store, spec, seconds, memory=10**9, **facts):
    """A finished run of `spec` that says that it took so long."""
    run = fit(spec, progress=False, store=store)
    path = run.folder / "run.json"
    path.write_text(json.dumps({**run.info, "seconds": seconds, "peak_memory": memory, **facts}))


def test_an_empty_store_knows_nothing(store):
    found = forecast([TINY, MASKED, TINY], store)
    assert found == Forecast(2, 0, 0, None, None)
    assert str(found) == "2 runs: 0 there, 2 to train, for how long is not known: none like them was trained here"


def test_time_is_passes_over_images_times_the_median_of_like_runs(store):
    for seed, seconds in enumerate((1.0, 2.0, 30.0)):
        took(store, TINY.replace(seed=seed), seconds, memory=10**9 * seed)
    long = [TINY.replace(seed=seed, epochs=10, images=640) for seed in (7, 8)]
    found = forecast([*long, TINY], store)
    assert found == Forecast(3, 1, 2, 2 * 50 * 2.0, 2 * 10**9)
    assert str(found) == "3 runs: 1 there, 2 to train, about 3 min, up to 2.0 GB each, by the runs that are there"
    assert str(forecast([TINY], store)) == "1 runs, all there"


def test_the_most_like_runs_count_and_another_network_none(store):
    took(store, TINY, 5.0)
    assert forecast([MASKED.replace(seed=1)], store).seconds == 5.0  # the host's, for want of better
    took(store, MASKED, 7.0)
    assert forecast([MASKED.replace(seed=1)], store).seconds == 7.0
    assert forecast([TINY.replace(seed=1)], store).seconds == 5.0
    wide = TINY.replace(width=8)
    found = forecast([wide, MASKED.replace(seed=1)], store)
    assert (found.guessed, found.seconds) == (1, 7.0) and "about 7 s for 1 of them" in str(found)


def test_a_run_that_diverged_tells_nothing(store):
    took(store, TINY, 5.0, status="diverged")
    assert forecast([TINY.replace(seed=1)], store).seconds is None
    assert forecast([TINY], store) == Forecast(1, 1, 0, None, None)


def test_a_run_on_other_hardware_is_there_and_tells_nothing_of_time(store):
    took(store, TINY, 5.0, hardware="a machine of another kind")
    assert forecast([TINY, TINY.replace(seed=1)], store) == Forecast(2, 1, 0, None, None)
