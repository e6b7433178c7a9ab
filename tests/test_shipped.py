"""Records: what was shipped serves in place of training, and nothing else does."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from mastlib import closure, shipped, study, training
from mastlib.evaluation.rows import load_backbone
from mastlib.forecast import forecast
from mastlib.precision import threads
from mastlib.runs import RunStore
from mastlib.shelf import export
from mastlib.shipped import pack, there
from mastlib.spec import RunSpec
from mastlib.study import Model, run_study
from mastlib.training import fit, weights_of

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=64, batch_size=32, epochs=1,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip
OPEN = TINY.replace(precision="auto", memory_format="auto")
ARMS, SEEDS, TASKS = {"a": TINY, "open": OPEN.replace(lr=2e-3)}, (0, 1), ["tone", "position"]


def norm(model: Model) -> pd.DataFrame:
    return pd.DataFrame({"value": [sum(float(w.square().sum()) for w in model.backbone().parameters())]})


def studied() -> tuple[pd.DataFrame, pd.DataFrame]:
    found = run_study(ARMS, SEEDS, "smoke", TASKS)
    return found.every_metric, found.measured("norm", norm, code="mastlib.shipped")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """Outputs with a study, and what is shipped of them."""
    root = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MASTLIB_OUTPUTS", str(root / "first"))
        patched.setenv("MASTLIB_REFERENCE", str(root / "reference"))
        for table, name in zip(studied(), ("rows", "measured"), strict=True):
            table.to_pickle(root / name)
        specs = [spec.replace(seed=seed) for spec in ARMS.values() for seed in SEEDS]
        assert pack(specs, root / "reference" / "smoke") == []
    return root


@pytest.fixture
def here(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with outputs that are another, empty folder, which finds what was packed."""
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path / "reference"))
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "second"))
    return tmp_path


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(study, "fit", fit)
    monkeypatch.setattr(training, "train", fit)


def test_a_study_of_records_has_the_same_rows_and_tables_and_trains_nothing(here, untrained):
    for found, name in zip(studied(), ("rows", "measured"), strict=True):
        pd.testing.assert_frame_equal(found, pd.read_pickle(here / name), check_exact=True)
    assert "all there" in str(forecast(ARMS.values()))


def test_a_record_serves_where_another_auto_would_be_chosen(here, untrained, monkeypatch):
    other = {"compile": "off", "precision": "bf16", "memory_format": "contiguous"}
    kept = there(ARMS["open"]).spec
    assert other["precision"] != kept.precision
    monkeypatch.setattr(training, "resolve", lambda spec: spec.replace(**other) if spec.precision == "auto" else spec)
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(here / "third"))
    assert there(ARMS["open"]).spec == kept
    assert there(TINY.replace(precision="bf16")) is None  # asked for by name


@pytest.mark.parametrize("changed", [{"lr": 3e-3}, {"seed": 2}, {"images": 96}])
def test_another_spec_finds_no_record(here, changed):
    assert there(TINY) is not None
    assert there(TINY.replace(**changed)) is None


def test_other_code_finds_no_record(here, monkeypatch):
    monkeypatch.setattr(shipped, "combine", lambda found: closure.combine(found) + "moved")
    assert there(TINY) is None


def test_weights_that_did_not_come_are_trained_and_rows_of_the_same_weights_stay(here):
    record = there(TINY)
    assert not record.has("backbone") and not record.has("method")
    rows = sorted(path.name for path in (record.folder / "tasks").iterdir())
    first = weights_of(record, "backbone")
    whole = RunStore().finished(record.id)
    assert whole.has("method") and "record" not in whole.info
    assert sorted(path.name for path in (whole.folder / "tasks").iterdir()) == rows
    with threads(record.info["threads"]):
        again = fit(TINY, progress=False, store=RunStore(here / "again")).weights("backbone")
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_a_record_is_trained_before_it_is_exported(here):
    export(there(TINY), here / "given")
    assert (here / "given" / "backbone.safetensors").is_file() and RunStore().finished(there(TINY).id).has("backbone")


def test_rows_of_other_weights_go(here):
    run = there(TINY.replace(seed=1))
    info = json.loads((run.folder / "run.json").read_text())
    info["files"]["backbone.safetensors"]["sha256"] = "0" * 64
    (run.folder / "run.json").write_text(json.dumps(info))
    load_backbone(RunStore().finished(run.id))
    assert not (run.folder / "tasks").exists()


def test_a_damaged_record_is_unpacked_anew(here):
    folder = there(TINY).folder
    (folder / "metrics.csv").write_text("")
    with pytest.warns(UserWarning, match="metrics.csv is damaged"):
        found = there(TINY)
    assert not found.metrics().empty
    found.verify()


def test_tables_of_other_runs_or_other_code_are_not_packed(here, monkeypatch):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(here / "first"))
    stranger = f"{'0' * 16} {'1' * 16}"
    study.remembered("other", stranger, partial(pd.DataFrame, {"a": [1]}), code="mastlib.stats")
    pack([TINY, TINY.replace(seed=1)], here / "less")
    subjects = [json.loads(path.read_text())["subject"] for path in (here / "less" / "measured").iterdir()]
    of_runs = {one[:16] for one in subjects if isinstance(one, str) and not one.startswith("random")}
    assert of_runs == {there(TINY.replace(seed=seed)).id for seed in SEEDS}
    monkeypatch.setattr(shipped, "closure_hash", lambda *_: "moved")
    pack([TINY], here / "less")
    assert not list((here / "less" / "measured").iterdir()) and len(list((here / "less" / "runs").iterdir())) == 1


def test_what_was_never_trained_is_named(here):
    missing = TINY.replace(seed=7)
    assert pack([TINY, missing], here / "less") == [missing]


def test_a_failure_while_packing_leaves_what_was_there(here, monkeypatch):
    before = sorted(path.name for path in (here / "reference" / "smoke" / "runs").iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shipped, "_record", full)
    with pytest.raises(Exception, match="No space left"):
        pack([TINY], here / "reference" / "smoke")
    assert sorted(path.name for path in (here / "reference" / "smoke" / "runs").iterdir()) == before
    assert not [path for path in (here / "reference").iterdir() if path.name.startswith(".")]


def test_an_unpacked_record_is_a_run_like_others(here):
    run = there(TINY)
    shutil.rmtree(here / "reference")
    assert RunStore().finished(run.id) == run
    assert list(RunStore().runs()["run_id"]) == [run.id]
