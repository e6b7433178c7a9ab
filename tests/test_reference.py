"""What the package ships: made from runs that are there, and held against runs that are trained again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mastlib import reference
from mastlib.grid import Row
from mastlib.shipped import there
from mastlib.spec import RunSpec
from mastlib.study import run_study
from mastlib.training import fit

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=64, batch_size=32, epochs=1,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip
ROWS = [Row(f"one-{seed}", "arm", TINY.replace(seed=seed)) for seed in range(3)]


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """Two of three runs of a grid, evaluated on one task, and the folder of what ships."""
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path / "reference"))
    monkeypatch.setattr(reference, "grid", lambda *_: SimpleNamespace(rows=ROWS))
    run_study({"arm": TINY}, [0, 1], "smoke", ["tone"])
    (tmp_path / "outputs" / "smoke").mkdir()
    (tmp_path / "outputs" / "smoke" / "times.json").write_text('{"one": {"fresh": 2.0}}')
    assert reference.main(["make", "--tier", "smoke"]) == 1
    return tmp_path / "reference" / "smoke"


def test_runs_and_times_are_laid_down_and_missing_runs_are_named(shipped, capsys):
    assert json.loads((shipped / "times.json").read_text()) == {"one": {"fresh": 2.0}}
    assert len(list((shipped / "runs").iterdir())) == 2
    assert reference.main(["make", "--tier", "smoke"]) == 1
    assert "not there: one-2" in capsys.readouterr().out


def test_a_run_trained_again_has_the_same_bits(shipped, capsys):
    found = reference.verify("smoke", 5)
    assert set(found["run_id"]) == {there(row.spec).id for row in ROWS[:2]}
    assert list(found["weights"]) == ["equal"] * 2 and list(found["curve"]) == [0, 0] and found["holds"].all()
    assert (found["change"] < 1e-12).all() and (found["other_change"] > 1e-3).all() and (found["other_curve"] > 0).all()
    assert reference.main(["verify", "--tier", "smoke", "-n", "1"]) == 0


def _trains(monkeypatch, **changes):
    monkeypatch.setattr(reference, "fit", lambda spec, store: fit(spec.replace(**changes), store=store, progress=False))


def test_the_same_run_in_another_order_of_sums_holds_and_another_seed_does_not(shipped, monkeypatch):
    _trains(monkeypatch, memory_format="channels_last")
    near = reference.verify("smoke", 1)
    assert list(near["weights"]) == ["differ"] and near["curve"].item() < 1e-2 * near["other_curve"].item()
    assert near["holds"].all() and reference.main(["verify", "--tier", "smoke"]) == 0
    _trains(monkeypatch, seed=9)
    assert not reference.verify("smoke", 2)["holds"].any() and reference.main(["verify", "--tier", "smoke"]) == 1


def test_equal_weights_with_other_scores_do_not_hold(shipped):
    for path in (shipped / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        lines = next(iter(record["tasks"].values())).splitlines()
        told = lines[1].split(",")
        name = next(iter(record["tasks"]))
        record["tasks"][name] = "\n".join([lines[0], ",".join([*told[:2], "0.99", *told[3:]]), *lines[2:]])
        path.write_text(json.dumps(record))
    found = reference.verify("smoke", 2)
    assert list(found["weights"]) == ["equal"] * 2 and not found["holds"].any()


def test_nothing_shipped_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path))
    assert reference.main(["verify", "--tier", "gpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("reference: tier = 'gpu' cannot be used") and said.count("\n") == 1
