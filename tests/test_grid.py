"""The runs of a tier as one table: laid out by content, trained by processes, gone on with after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mastlib import grid as grids
from mastlib.__main__ import main
from mastlib.files import outputs_dir
from mastlib.grid import Grid, Row, grid, train_grid
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.tiers import TIERS
from mastlib.training import code_of, fit

ROOT = Path(__file__).parents[1]
TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=64, batch_size=32, epochs=2,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    return tmp_path


def small(count: int = 2, **changes: object) -> Grid:
    """A grid of `count` runs that one chapter needs."""
    rows = tuple(Row(f"one-{seed}", "arm", TINY.replace(seed=seed, **changes)) for seed in range(count))
    return Grid("smoke", rows, {"one": tuple(row.name for row in rows)}, {"one": "key"}, {"one": ()})


def test_the_books_grid_has_every_run_once():
    planned = grid(ROOT, "smoke", {"05_augself_cassle": {"seeds": [5]}})
    names = [row.name for row in planned.rows]
    assert len(set(names)) == len(names) == len({row.spec for row in planned.rows}) == 6 + 13 + 18 + 2 + 6
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)
    assert set(planned.needs["07_uncertainty"]) < set(planned.needs["06_mask_analysis"]), (
        "MAST is trained once for both"
    )
    assert {row.spec.seed for row in planned.rows if row.name.startswith("05")} == {5}
    assert planned.needs["02_augmentations"] == () and set(planned.needs) == set(planned.keys)
    table = planned.table()
    both = table[table["chapters"].str.endswith("06_mask_analysis, 07_uncertainty")]
    assert set(both["name"]) == set(planned.needs["07_uncertainty"]) and len(both) == 1
    assert not table["there"].any()


def test_what_changes_in_a_method_reaches_the_runs_that_use_it_and_no_other():
    rows = grid(ROOT, "smoke", {}).rows
    reached = {
        name: {row.name for row in rows if f"mastlib.methods.{name}" in code_of(row.spec)}
        for name in ("mast", "augself", "cassle", "looc", "swav")
    }
    using = {name: {row.name for row in rows if name in (row.spec.awareness, row.spec.host)} for name in reached}
    using["looc"] |= {row.name for row in rows if row.spec.looc_stages}
    assert reached == using and all(reached[name] for name in ("mast", "augself", "cassle", "looc"))


@pytest.mark.parametrize(
    ("chapter", "given", "changed"),
    [
        ("05_augself_cassle", {"modes": ["add"]}, lambda spec: spec.condition_mode in ("multiply", "hypernetwork")),
        ("05_augself_cassle", {"jitter": []}, lambda spec: spec.augmentations == "augself_strong"),
        ("04_mast_training", {"badges": [0.2, 0.4]}, lambda spec: spec.badge in (0.15, 0.2)),
        ("03_motivation_ablation", {"host": "simclr"}, lambda spec: spec.host == "simclr" or spec.without),
    ],
)
def test_one_parameter_asks_for_the_runs_that_depend_on_it_and_no_other(chapter, given, changed):
    before, after = ({row.spec for row in grid(ROOT, "smoke", one).rows} for one in ({}, {chapter: given}))
    assert before ^ after and all(changed(spec) for spec in before ^ after)


def test_a_receipt_stays_only_while_task_code_run_and_page_are_the_same(monkeypatch):
    planned = small()
    planned.write()
    tasks = [planned.task(row) for row in planned.rows]
    receipts = [task.with_suffix(".done") for task in tasks]
    page = outputs_dir() / "executed" / "smoke" / "chapters" / "one.ipynb"
    page.parent.mkdir(parents=True)
    page.touch()
    chapter = planned.folder / "chapters" / "one.done"

    def made() -> list[bool]:
        """All receipts as after their jobs; which of them stay when the grid is laid out again."""
        for task, receipt in zip(tasks, receipts, strict=True):
            run = fit(RunSpec.from_dict(json.loads(task.read_text())["spec"]), progress=False)
            receipt.write_text(json.dumps({"run_id": run.id}))
        chapter.touch()
        before = [task.stat().st_mtime_ns for task in tasks]
        again.write()
        assert again is not planned or before == [task.stat().st_mtime_ns for task in tasks], "what is the same is left"
        return [path.is_file() for path in (*receipts, chapter)]

    again = planned
    assert made() == [True, True, True]
    again = Grid(
        "smoke", (planned.rows[0], Row("one-1", "arm", TINY.replace(seed=7))), planned.needs, {"one": "new"}, {}
    )
    assert made() == [True, False, False]
    page.unlink()
    assert made() == [True, True, False]
    page.touch()
    run = json.loads((planned.folder / "runs" / "one-0.done").read_text())["run_id"]
    (RunStore().folder(run) / "metrics.csv").unlink()
    with pytest.warns(UserWarning, match="metrics.csv"):
        again.write()
    assert [path.is_file() for path in receipts] == [False, True]
    monkeypatch.setattr(grids, "code_of", lambda spec: {"mastlib.training": "other code"})
    again.write()
    assert not any(path.is_file() for path in receipts)


def test_each_run_is_trained_by_a_process_of_its_own_and_a_failed_one_stops_no_other(monkeypatch, capsys):
    planned, process = small(3), grids._process

    def failing(planned: Grid, row: Row, slot: int) -> subprocess.Popen[bytes]:
        if row.name != "one-1":
            return process(planned, row, slot)
        with open(grids._log(planned, row), "wb") as log:
            return subprocess.Popen([sys.executable, "-c", "import sys; sys.exit('no ' + 'luck')"], stderr=log)

    monkeypatch.setattr(grids, "_process", failing)
    assert train_grid(planned, jobs=2) == ["one-1"]
    said = capsys.readouterr().out
    assert "one-0: done" in said and "one-2: done" in said and "one-1: failed with code 1\n  no luck" in said
    assert said.splitlines()[0].startswith("3 runs: 0 there, 3 to train")
    runs = RunStore().runs()
    assert sorted(runs["seed"]) == [0, 2]
    assert {RunStore().read(name).info["threads"] for name in runs["run_id"]} == {TIERS["smoke"].cpus}
    for row in (planned.rows[0], planned.rows[2]):
        receipt = json.loads(planned.task(row).with_suffix(".done").read_text())
        assert RunStore().read(receipt["run_id"]).spec == row.spec and receipt["status"] == "ok"
    monkeypatch.setattr(grids, "_process", process)
    assert train_grid(planned) == [] and len(RunStore().runs()) == 3
    monkeypatch.setattr(grids, "_process", lambda *_: pytest.fail("nothing is to be trained"))
    assert train_grid(planned) == []


STOPPED = """
import json, sys
from mastlib.grid import Grid, Row, train_grid
from mastlib.spec import RunSpec
spec = RunSpec.from_dict(json.loads(sys.argv[1]))
train_grid(Grid("smoke", tuple(Row(f"one-{i}", "arm", spec.replace(seed=i)) for i in range(3)), {}, {}, {}), jobs=2)
"""


def test_a_request_to_stop_reaches_the_processes_which_save_and_end(outputs):
    command = [sys.executable, "-c", STOPPED, json.dumps(TINY.replace(epochs=5000).to_dict())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while sum(bool(path.read_text()) for path in outputs.glob("runs/.*.partial/metrics.csv")) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    store = RunStore()
    statuses = [json.loads((store.working(name) / "run.json").read_text())["status"] for name in store.unfinished()]
    assert statuses == ["interrupted"] * 2, "the third was not begun"
    assert all(list(store.working(name).glob("resume/*.safetensors")) for name in store.unfinished())
    assert list(outputs.glob("runs/*.lock")) == []


def test_a_machines_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert grids._slots(TIERS["laptop"]) == 1 and grids._slots(TIERS["gpu"]) == 5 and grids._slots(TIERS["paper"]) == 1
    given = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: given.append((env, command)))
    planned = Grid("gpu", (Row("one", "arm", TINY),), {}, {}, {})
    planned.write()
    grids._process(planned, planned.rows[0], 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2")
    grids._process(planned, planned.rows[0], 1)
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in given] == ["3", "2"]
    assert all(env["OMP_NUM_THREADS"] == "8" and command[-2:] == ["--devices", "1"] for env, command in given)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--tier", "huge"], "grid: tier = 'huge' cannot be used; accepted: smoke, laptop, gpu, paper"),
        (["run", "-p", "04_mast_training.seeds=[true]"], "seeds = [True] cannot be used"),
        (["list", "-p", "nothing=1"], "parameter 'nothing=1' cannot be used; accepted: CHAPTER.NAME=VALUE"),
        (["run", "--tier", "smoke", "--jobs", "0"], "jobs = 0 cannot be used; accepted: an integer of at least 1"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_and_nothing_is_laid_out(arguments, said, capsys, outputs):
    assert grids.main(arguments) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not (outputs / "grid").exists()


def test_a_list_says_what_is_missing_and_how_long_it_takes(capsys):
    others = ("03_motivation_ablation", "05_augself_cassle", "06_mask_analysis", "08_why_transfer")
    given = ["04_mast_training.seeds=[0]", *(f"{name}.seeds=[]" for name in others)]
    assert grids.main(["list", "--tier", "smoke", *(word for one in given for word in ("-p", one))]) == 0
    said = capsys.readouterr().out
    assert "04-vicreg-5-no-colour-ops-0" in said and "05-" not in said
    assert said.splitlines()[-1].startswith("14 runs: 0 there, 14 to train")


def test_fit_takes_a_task_and_leaves_a_receipt(tmp_path, capsys):
    task, receipt = tmp_path / "task.json", tmp_path / "made" / "receipt"
    for text, said in (
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        (json.dumps({"spec": {"lr": 0}}), "lr = 0 cannot be used"),
    ):
        task.write_text(text)
        assert main(["fit", str(task), "--receipt", str(receipt)]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and not receipt.exists()
    task.write_text(json.dumps({"spec": TINY.to_dict()}))
    assert main(["fit", str(task), "--receipt", str(receipt), "--store", str(tmp_path / "mine")]) == 0
    run = RunStore(tmp_path / "mine").read(json.loads(receipt.read_text())["run_id"])
    assert run.spec == TINY and capsys.readouterr().out == f"{run.folder}\n"
