"""A run is found by what it computes, appears whole or not at all, and is made once."""

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from mastlib.errors import InputError
from mastlib.runs import RunStore, run_id
from mastlib.spec import RunSpec

SPEC = RunSpec(
    backbone="resnet_small", images=64, batch_size=32, epochs=1, warmup_epochs=0, precision="fp32",
    memory_format="contiguous", compile="off",
)  # fmt: skip
DATA, CLOSURE = "d" * 64, {"mastlib.a": "1" * 64, "mastlib.b": "2" * 64}
STATE = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "n": torch.tensor(7)}
INFO = {"seconds": 1.5, "images_per_second": 100.0, "device": "cpu"}


def identity(spec=SPEC, data=DATA, closure=CLOSURE):
    return run_id(spec, data, closure)


def write(store, spec=SPEC, status="ok", backbone=STATE, method=STATE, rows=({"epoch": 1, "loss": 0.1},), info=INFO):
    with store.writer(identity(spec), spec, data=DATA, closure=CLOSURE) as writer:
        for row in rows:
            writer.log(**row)
        return writer.finish(status, info, backbone=backbone, method=method)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def left(store):
    return sorted(os.listdir(store.root))


def test_identity_is_stable_and_16_hexadecimal_digits():
    assert len(identity()) == 16
    assert int(identity(), 16) >= 0
    assert identity() == identity(RunSpec.from_dict(SPEC.to_dict()), str(DATA), dict(reversed(CLOSURE.items())))


CHANGES = {
    "host": {"host": "simclr"}, "awareness": {"awareness": "mast", "pairing": "isolate_one"},
    "data": {"data": "a/folder"}, "images": {"images": 65}, "image_size": {"image_size": 32},
    "badge": {"badge": 0.2},
    "augmentations": {"augmentations": "spatial"}, "without": {"without": ["flip"]},
    "pairing": {"pairing": "isolate_one"}, "crop_redrawn": {"crop_redrawn": 0.0},
    "isolated": {"pairing": "mixed", "isolated": 0.25}, "temperature": {"host": "moco", "temperature": 0.1},
    "queue": {"host": "moco", "queue": 8}, "momentum": {"host": "byol", "momentum": 0.9},
    "prototypes": {"host": "swav", "prototypes": 8}, "freeze_prototypes": {"host": "swav", "freeze_prototypes": 0.5},
    "augself_tasks": {"awareness": "augself", "augself_tasks": ["crop", "blur"]},
    "augself_weights": {"awareness": "augself", "augself_weights": [1, 2]},
    "condition_on": {"awareness": "cassle", "condition_on": ["crop"]},
    "condition_mode": {"awareness": "cassle", "condition_mode": "add"},
    "condition_given": {"awareness": "cassle", "condition_given": "another"},
    "condition_depth": {"awareness": "cassle", "condition_depth": 2},
    "condition_width": {"awareness": "cassle", "condition_width": 8}, "mask_on": {"mask_on": "representation"},
    "mask_choice": {"mask_choice": "loss"}, "mask_diversity": {"mask_diversity": 1}, "mask_margin": {"mask_margin": 0.3},
    "looc_stages": {"host": "moco", "awareness": "looc", "pairing": "leave_one_out", "looc_stages": True},
    "outside_weight": {"outside_weight": 2}, "outside_std": {"outside_std": 0.9},
    "full_weight": {"subspace_loss": "C", "full_weight": 2},
    "backbone": {"backbone": "resnet18"},
    "width": {"width": 8}, "stem": {"stem": "small"}, "projector": {"projector": [64, 64]}, "epochs": {"epochs": 2},
    "batch_size": {"batch_size": 33}, "optimizer": {"optimizer": "sgd"}, "lr": {"lr": 0.20000000000000004},
    "weight_decay": {"weight_decay": 0}, "warmup_epochs": {"warmup_epochs": 0.5},
    "invariance_weight": {"invariance_weight": 24}, "variance_weight": {"variance_weight": 24},
    "covariance_weight": {"covariance_weight": 2}, "mask_type": {"mask_type": "ones"}, "mask_power": {"mask_power": 2},
    "mask_init": {"mask_init": 0.9}, "mask_lr": {"mask_lr": 1}, "mask_sparsity": {"mask_sparsity": 0.1},
    "scale_fix": {"scale_fix": "none"}, "subspace_loss": {"subspace_loss": "A"}, "uncertainty": {"uncertainty": "reweight"},
    "knn_every": {"knn_every": 1}, "precision": {"precision": "bf16"}, "seed": {"seed": 1},
    "memory_format": {"memory_format": "channels_last"}, "compile": {"compile": "on"},
}  # fmt: skip


def test_every_field_is_part_of_the_identity():
    assert set(CHANGES) == set(SPEC.to_dict())
    mast = SPEC.replace(awareness="mast", pairing="isolate_one")
    for name, change in CHANGES.items():
        base = (
            mast
            if {"mask", "subspace", "scale", "uncertainty", "full", "outside"} & set(name.split("_"))
            or name == "crop_redrawn"
            else SPEC
        )
        whole = {key: value for key, value in change.items() if key != name}  # what the field needs to have an effect
        assert identity(base.replace(**change)) != identity(base.replace(**whole)), name


def test_data_and_code_are_part_of_the_identity():
    assert identity(data="e" * 64) != identity()
    assert identity(closure={**CLOSURE, "mastlib.a": "3" * 64}) != identity()
    assert identity(closure={**CLOSURE, "mastlib.c": "3" * 64}) != identity()


def test_where_a_folder_lies_is_no_part_of_the_identity():
    here, there = (SPEC.replace(data=path) for path in ("/here", "../there"))
    assert identity(here) == identity(there)
    assert identity(here, data="e" * 64) != identity(here)
    assert identity(here) != identity(SPEC)


@pytest.mark.parametrize("name", ["precision", "memory_format", "compile"])
def test_an_unresolved_spec_has_no_identity(name):
    with pytest.raises(InputError, match=f"^{name} = 'auto' cannot be used"):
        identity(SPEC.replace(**{name: "auto"}))


@pytest.mark.parametrize("status", ["ok", "collapsed", "diverged"])
def test_a_finished_run_comes_back_as_it_was_written(store, status):
    assert store.finished(identity()) is None
    written = write(store, status=status)
    run = store.finished(identity())
    assert (run.id, run.folder, run.spec) == (identity(), store.folder(identity()), SPEC)
    assert written == run
    assert left(store) == [identity()]
    assert sorted(os.listdir(run.folder)) == [
        "backbone.safetensors", "method.safetensors", "metrics.csv", "run.json", "spec.json",
    ]  # fmt: skip
    assert json.loads((run.folder / "spec.json").read_text()) == SPEC.to_dict()
    assert run.info["status"] == status
    assert run.info["seconds"] == 1.5
    assert (run.info["data"], run.info["closure"], run.info["seed"]) == (DATA, CLOSURE, 0)
    expected = {"run_id", "git", "versions", "hardware", "threads", "started", "finished", "code", "files", "device"}
    assert expected <= set(run.info)
    assert pd.Timestamp(run.info["started"]) <= pd.Timestamp(run.info["finished"])


def test_json_has_sorted_keys_and_no_nan(store):
    run = write(store, info={"rate": math.nan, "deep": {"a": np.float32(0.5)}, "list": (torch.tensor(3), math.inf)})
    text = (run.folder / "run.json").read_text()
    strict = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (strict["rate"], strict["deep"], strict["list"]) == (None, {"a": 0.5}, [3, None])
    assert text == json.dumps(strict, sort_keys=True, indent=2)


def test_weights_keep_bits_types_and_names(store):
    shared = torch.arange(6.0)
    state = {
        "shared": shared, "view": shared[2:5], "transposed": torch.randn(4, 3).T, "half": torch.randn(3).bfloat16(),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "count": torch.tensor(2**40),
        "flag": torch.tensor([True, False]), "empty": torch.zeros(0, 3),
        "nan": torch.tensor([math.nan, -0.0]), "trained": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    run = write(store, backbone=state, method={})
    back = run.weights("backbone")
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        torch.testing.assert_close(back[name], value.detach(), rtol=0, atol=0, equal_nan=True)
    assert run.weights("method") == {}
    with pytest.raises(InputError, match="part = 'head' cannot be used; accepted: backbone, method"):
        run.weights("head")


def test_equal_weights_give_equal_files(store, tmp_path):
    other = RunStore(tmp_path / "other")
    a, b = write(store), write(other, backbone=dict(reversed(STATE.items())))
    for name in ("backbone.safetensors", "spec.json", "metrics.csv"):
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()


def test_metrics_are_read_while_running_and_keep_every_bit(store):
    rows = [
        {"epoch": 1, "loss": 0.1 + 0.2, "knn": math.nan, "word": "a,b"},
        {"epoch": 2, "loss": torch.tensor(1 / 3), "knn": None, "word": 'c"d'},
        {"word": "e", "knn": np.float64(1e-300), "loss": math.pi, "epoch": np.int64(3)},
    ]
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        for count, row in enumerate(rows, start=1):
            writer.log(**row)
            assert len(pd.read_csv(writer.folder / "metrics.csv")) == count
        for wrong in ({"epoch": 4}, {**rows[0], "more": 1}):
            with pytest.raises(InputError, match="the columns of the first row: epoch, loss, knn, word"):
                writer.log(**wrong)
        run = writer.finish("ok", INFO, backbone=STATE, method=STATE)
    table = run.metrics()
    assert list(table.columns) == ["epoch", "loss", "knn", "word"]
    assert table["loss"].tolist() == [0.1 + 0.2, float(torch.tensor(1 / 3)), math.pi]
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["knn"].isna().tolist() == [True, True, False]
    assert table["knn"][2] == 1e-300
    assert table["word"].tolist() == ["a,b", 'c"d', "e"]


def test_thousands_of_numbers_come_back_equal(store):
    numbers = np.random.default_rng(0).lognormal(0, 20, 2000).tolist()  # a fast reader of decimals is off for some
    run = write(store, rows=[{f"x{i}": number for i, number in enumerate(numbers)}])
    assert run.metrics().iloc[0].tolist() == numbers


def test_a_run_that_logged_nothing_has_an_empty_table(store):
    assert write(store, status="diverged", rows=()).metrics().empty


def test_nothing_is_finished_before_finish(store):
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        assert writer.finished is None
        writer.log(loss=1)
        assert json.loads((writer.folder / "spec.json").read_text()) == SPEC.to_dict()
        assert store.finished(identity()) is None
        assert store.runs().empty
        run = writer.finish("ok", INFO, backbone=STATE, method=STATE)
        assert store.finished(identity()) == run == writer.finished


@pytest.mark.parametrize("error", [RuntimeError("broke"), KeyboardInterrupt()])
def test_an_exception_leaves_no_finished_run_and_without_a_checkpoint_the_next_writer_starts_anew(store, error):
    writing = store.writer(identity(), SPEC, data=DATA, closure=CLOSURE)
    with pytest.raises(type(error)), writing as writer:  # noqa: PT012
        writer.log(loss=1)
        (writer.folder / "resume").mkdir()
        raise error
    info = json.loads((writer.folder / "run.json").read_text())
    assert info["status"] == "interrupted"
    assert type(error).__name__ in info["reason"]
    assert store.finished(identity()) is None
    assert store.runs().empty
    assert left(store) == [writer.folder.name]
    run = write(store, rows=[{"other": 2}])
    assert run.metrics()["other"].tolist() == [2]
    assert left(store) == [identity()]


def test_a_writer_goes_on_from_the_last_checkpoint_of_the_one_before(store):
    writing = store.writer(identity(), SPEC, data=DATA, closure=CLOSURE)
    with pytest.raises(KeyboardInterrupt), writing as writer:  # noqa: PT012
        assert writer.resume() is None
        writer.log(loss=0.1, epoch=1)
        writer.checkpoint(4, STATE, {"epoch": 1})
        writer.log(loss=0.2, epoch=2)  # lost: it came after the checkpoint
        raise KeyboardInterrupt
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        tensors, facts = writer.resume()
        assert facts["epoch"] == 1 and set(tensors) == set(STATE)
        assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
        writer.log(epoch=2, loss=0.3)
        run = writer.finish("ok", INFO, backbone=STATE, method=STATE)
    assert run.metrics()["loss"].tolist() == [0.1, 0.3] and run.metrics()["epoch"].tolist() == [1, 2]
    assert not (run.folder / "resume").exists()


def test_a_run_on_a_folder_is_found_and_gone_on_with_after_the_folder_was_moved(store):
    here, there = (SPEC.replace(data=path) for path in ("/here", "../there"))
    writing = store.writer(identity(here), here, data=DATA, closure=CLOSURE)
    with pytest.raises(KeyboardInterrupt), writing as writer:  # noqa: PT012
        writer.checkpoint(4, STATE, {"epoch": 1})
        raise KeyboardInterrupt
    with store.writer(identity(there), there, data=DATA, closure=CLOSURE) as writer:
        assert writer.resume()[1]["epoch"] == 1
        writer.finish("ok", INFO, backbone=STATE, method=STATE)
    assert store.finished(identity(here)).spec == there


def test_a_block_that_ends_early_is_interrupted(store):
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        pass
    assert json.loads((writer.folder / "run.json").read_text())["status"] == "interrupted"
    assert store.finished(identity()) is None


def test_an_exception_after_finish_keeps_the_run(store):
    writing = store.writer(identity(), SPEC, data=DATA, closure=CLOSURE)
    with pytest.raises(KeyError), writing as writer:  # noqa: PT012
        writer.finish("ok", INFO, backbone=STATE, method=STATE)
        raise KeyError
    assert store.finished(identity()).info["status"] == "ok"


def test_a_finished_run_is_not_written_again(store):
    run = write(store)
    before = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        assert writer.finished == run
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == before
    assert left(store) == [identity()]


def test_what_cannot_be_stored_is_refused(store):
    for status in ("interrupted", "fine"):
        with pytest.raises(InputError, match="status = "):
            write(store, status=status)
    for name in ("run_id", "files", "started", "status"):
        with pytest.raises(InputError, match=f"info = \\['{name}'\\] cannot be used"):
            write(store, info={name: 1})
    with pytest.raises(InputError, match="run id"):
        store.folder("../" + "0" * 13)
    with (
        pytest.raises(InputError, match="run id"),
        store.writer("0" * 16, SPEC, data=DATA, closure=CLOSURE),
    ):
        pass
    assert store.finished(identity()) is None


@pytest.mark.parametrize("name", ["run.json", "spec.json", "metrics.csv", "backbone.safetensors", "method.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_run_is_not_finished_and_is_made_again(store, name, damage):
    path = write(store).folder / name
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[:-5])
    with pytest.warns(UserWarning, match=rf"{identity()} counts as not finished: .*{name}"):
        assert store.finished(identity()) is None
    with pytest.warns(UserWarning, match=name):
        assert store.runs().empty
    with pytest.warns(UserWarning, match=name):
        write(store)
    assert store.finished(identity()) is not None
    assert left(store) == [identity()]


def test_a_changed_byte_in_the_weights_or_metrics_is_noticed(store):
    run = write(store)
    for name, read in (("backbone.safetensors", lambda: run.weights("backbone")), ("metrics.csv", run.metrics)):
        path = run.folder / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} is damaged"):
            read()
        assert run.weights("method")["n"] == 7


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", '{"files": 3}', "\x00"])
def test_any_wrong_run_json_is_damage(store, text):
    (write(store).folder / "run.json").write_text(text)
    with pytest.warns(UserWarning, match=r"run\.json is damaged"):
        assert store.finished(identity()) is None


def test_a_run_under_another_name_is_damage(store):
    run = write(store)
    run.folder.rename(store.root / ("0" * 16))
    with pytest.warns(UserWarning, match="describes another run"):
        assert store.finished("0" * 16) is None


def test_tasks_may_keep_files_beside_a_run(store):
    run = write(store)
    (run.folder / "tasks").mkdir()
    assert store.finished(identity()) == run


def test_a_full_disk_is_one_sentence_and_no_run(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot write .*: No space left on device") as refusal:
            writer.finish("ok", INFO, backbone=STATE, method=STATE)
        assert "\n" not in str(refusal.value)
    assert store.finished(identity()) is None
    assert left(store) == [f".{identity()}.partial"]


def test_a_file_that_the_system_refuses_to_grow_is_one_sentence_and_no_run(store):
    """The system's own refusal, at two places: the weights, and a row of metrics.csv."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"w": torch.zeros(2**16)}
    for rows, name in (([{"a": 1}], r"backbone\.safetensors"), ([{"a": "x" * 2**17}], r"metrics\.csv")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            with pytest.raises(InputError, match=rf"cannot write .*{name}"):
                write(store, backbone=big, rows=rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert store.finished(identity()) is None
        assert left(store) == [f".{identity()}.partial"]


def test_the_index_is_made_from_the_folders(store):
    assert list(store.runs().columns)[:4] == ["run_id", "status", "finished", "seconds"]
    specs = [SPEC.replace(seed=seed, without=["flip"]) for seed in (3, 1, 2)]
    for spec in specs:
        write(store, spec, status="collapsed" if spec.seed == 1 else "ok")
    (store.root / "notes").mkdir()
    (store.root / f".{'0' * 16}.partial").mkdir()
    table = store.runs()
    assert table["run_id"].tolist() == [identity(spec) for spec in specs]
    assert table["seed"].tolist() == [3, 1, 2]
    assert table["status"].tolist() == ["ok", "collapsed", "ok"]
    assert set(SPEC.to_dict()) <= set(table.columns)


def test_the_store_is_under_the_outputs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    assert RunStore().root == tmp_path / "runs"
    assert RunStore().runs().empty


def test_files_are_safetensors_that_the_library_reads_itself(store):
    run = write(store)
    loaded = safetensors.torch.load_file(run.folder / "backbone.safetensors")
    assert torch.equal(loaded["w"], STATE["w"])


CHILD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("test_runs", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
store = here.RunStore(pathlib.Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
with store.writer(here.identity(), here.SPEC, data=here.DATA, closure=here.CLOSURE) as writer:
    if writer.finished is None:
        print("training", flush=True)
        sys.stdin.readline()
        writer.finish("ok", {}, backbone=here.STATE, method=here.STATE)
    print("status", writer.finished.info["status"], flush=True)
"""


class Child:
    """Another process that makes the run of SPEC, step by step as it is told."""

    def __init__(self, store):
        command = [sys.executable, "-c", CHILD, str(Path(__file__)), str(store.root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.says() == "ready"

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self):
        return self.process.stdout.readline().rstrip("\n")

    def end(self):
        return self.process.communicate(timeout=30)[0].splitlines()


def test_two_processes_that_want_one_run_make_it_once(store):
    other = Child(store)
    with store.writer(identity(), SPEC, data=DATA, closure=CLOSURE) as writer:
        other.go_on()
        assert other.says().startswith(f"{identity()} is being made by process {os.getpid()} on ")
        run = writer.finish("collapsed", INFO, backbone=STATE, method=STATE)
    assert other.end() == ["status collapsed"]  # it did not train, and got this process's run
    assert store.finished(identity()) == run
    assert left(store) == [identity()]


def test_a_killed_process_leaves_the_run_to_the_next(store):
    other = Child(store)
    other.go_on()
    assert other.says() == "training"
    assert store.finished(identity()) is None
    other.process.send_signal(signal.SIGKILL)
    other.end()
    assert left(store) == [f".{identity()}.partial", f"{identity()}.lock"]
    assert write(store).info["status"] == "ok"
    assert left(store) == [identity()]
