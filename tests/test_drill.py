"""A run that is killed on purpose: as often as asked, at the share of the steps that was asked, to the same bits."""

import pandas as pd
import pytest

from mastlib.drill import killed_run
from mastlib.errors import InputError
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit

SPEC = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=1024, batch_size=32, epochs=8,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip


def test_it_is_killed_where_it_was_asked_and_ends_with_the_same_bits(tmp_path):
    whole = fit(SPEC, progress=False, store=RunStore(tmp_path / "whole"))
    run, kills = killed_run(SPEC, tmp_path / "killed", 2)
    assert list(kills.index) == [1, 2] and list(kills["step"]) == [86, 171]  # 256 / 3 and twice that: not a step later
    assert (kills["epoch"] == kills["step"] / 32).all()
    assert run.id == whole.id
    for name in ("backbone.safetensors", "method.safetensors"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    timing = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(run.metrics().drop(columns=timing), whole.metrics().drop(columns=timing))
    with pytest.raises(InputError, match="already"):
        killed_run(SPEC, tmp_path / "killed", 1)


def test_a_run_that_is_over_at_once_is_killed_all_the_same(tmp_path):
    run, kills = killed_run(SPEC.replace(images=64, epochs=1), tmp_path, 1)  # two steps
    assert list(kills["step"]) == [1] and run.info["status"] == "ok"


def test_a_process_that_cannot_train_is_told_of(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        killed_run(SPEC, tmp_path / "file", 1)
