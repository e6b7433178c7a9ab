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
    assert list(found["weights"]) == ["equal"] * 2 and list(found["change"]) == [0, 0] and found["holds"].all()
    assert reference.main(["verify", "--tier", "smoke", "-n", "1"]) == 0


def test_other_weights_are_held_against_the_shipped_scores(shipped, monkeypatch):
    for path in (shipped / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        record["info"]["files"]["backbone.safetensors"]["sha256"] = "0" * 64
        path.write_text(json.dumps(record))
    near = reference.verify("smoke", 1)
    assert list(near["weights"]) == ["differ"] and near["change"].item() < 1e-12 and near["holds"].all()
    monkeypatch.setattr(reference, "fit", lambda spec, store: fit(spec.replace(seed=9), store=store, progress=False))
    far = reference.verify("smoke", 1)
    assert far["change"].item() > 1e-3
    assert reference.main(["verify", "--tier", "smoke"]) == int(far["change"].item() > reference.TOLERANCE)


def test_nothing_shipped_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path))
    assert reference.main(["verify", "--tier", "gpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("reference: tier = 'gpu' cannot be used") and said.count("\n") == 1
