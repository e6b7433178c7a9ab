"""The store from a shell: what differs, what is damaged, what is thrown away, what others get."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from mastlib import runs, shelf
from mastlib.__main__ import main
from mastlib.evaluation.rows import load_backbone
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=64, batch_size=32, epochs=2,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Two finished runs and one that was ended, in the default place."""
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    for seed in (0, 1):
        fit(TINY.replace(seed=seed), progress=False)
    with monkeypatch.context() as patched:
        patched.setattr("mastlib.resume.SHARE", 1e9)
        patched.setattr("mastlib.runs.RunWriter.finish", ended)
        with pytest.raises(KeyboardInterrupt):
            fit(TINY.replace(seed=2), progress=False, checkpoint_seconds=0)
    return RunStore()


def ended(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_list_shows_the_settings_that_differ_and_no_other(store, capsys):
    table = shelf.listed(store)
    assert list(table.columns) == [*shelf.FACTS, "seed"] and sorted(table["seed"]) == [0, 1]
    assert main(["runs", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in store.identities())
    assert f"{store.unfinished()[0]} is unfinished" in said
    assert main(["runs", "list", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("run_id,status,finished,seconds,seed\n")


def test_a_run_is_shown_by_the_beginning_of_its_id(store, capsys):
    first, second = store.identities()
    common = next(n for n in range(17) if first[:n] != second[:n])
    assert main(["runs", "show", first[:common]]) == 0
    assert first in capsys.readouterr().out
    for wrong in (first[: common - 1], "nothing"):
        assert main(["runs", "show", wrong]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mastlib: run = '{wrong}' cannot be used") and said.count("\n") == 1


def test_verify_names_every_damaged_file(store, capsys):
    assert main(["runs", "verify"]) == 0
    assert capsys.readouterr().out == "2 finished and 1 unfinished runs are whole\n"
    weights = store.folder(store.identities()[0]) / "method.safetensors"
    last = sorted((store.working(store.unfinished()[0]) / "resume").iterdir())[-1]
    for path in (weights, last):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert main(["runs", "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and str(weights) in lines[0] and str(last) in lines[1]


def test_prune_says_first_and_deletes_what_was_named_only_with_yes(store, capsys):
    kept, gone = store.identities()
    (store.folder(gone) / "metrics.csv").unlink()
    partial = store.working(store.unfinished()[0])
    for arguments, there in (([], True), (["--yes"], False)):
        assert main(["runs", "prune", "--status", "damaged", "--unfinished", *arguments]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{'would delete' if there else 'deleted'} {path}" for path in (store.folder(gone), partial)
        ]
        assert store.folder(gone).exists() == partial.exists() == there
    assert main(["runs", "prune", "--status", "collapsed", "damaged", "diverged", "--unfinished", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to delete\n"
    assert store.identities() == [kept] and [path.name for path in store.root.iterdir()] == [kept]


def test_a_run_of_a_version_with_other_settings_is_no_damage(store, capsys, recwarn):
    kept, old = store.identities()
    folder = store.folder(old)
    info = json.loads((folder / "run.json").read_text())
    spec = {**json.loads((folder / "spec.json").read_text()), "strength": 3}
    text = json.dumps(spec)
    info["files"]["spec.json"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    name = runs._identity(spec, info["data"], info["code"])
    (folder / "spec.json").write_text(text)
    (folder / "run.json").write_text(json.dumps(info))
    folder.rename(store.folder(name))
    assert list(store.runs()["run_id"]) == [kept] and store.finished(name) is None and not recwarn.list
    assert main(["runs", "verify"]) == 0
    assert main(["runs", "show", name]) == 2
    assert "is of another version of mastlib: unknown setting strength = 3" in capsys.readouterr().err
    assert shelf.prune(store, statuses=["damaged"], really=True) == []
    assert shelf.prune(store, statuses=["outdated"], really=True) == [store.folder(name)]
    assert store.identities() == [kept]


def test_an_export_loads_elsewhere_and_its_card_says_what_it_is(store, tmp_path, capsys):
    run = store.read(store.identities()[0])
    (run.folder / "tasks").mkdir()
    (run.folder / "tasks" / "tone-1.csv").write_text(
        "task,metric,value,low,high,n,protocol\ntone,accuracy,0.512345,0.5,0.6,77,by hand\ntone,nats,2,,,9,by head\n"
    )
    folder = tmp_path / "given" / "away"
    assert main(["runs", "export", run.id, str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "backbone.safetensors", "spec.json"]
    spec = RunSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    assert spec == run.spec
    net = load_backbone(run)
    theirs = safetensors.torch.load_file(folder / "backbone.safetensors")
    assert all(torch.equal(theirs[name], value) for name, value in net.state_dict().items())
    card = (folder / "README.md").read_text()
    assert f"`{run.id}`" in card and "| tone | accuracy | 0.5123 | 0.5000 to 0.6000 | 77 | by hand |" in card
    assert "| tone | nats | 2.0000 |  | 9 | by head |" in card
    assert all(word in card for word in ("resnet_small", "vicreg", run.info["data"], "Twemoji", "Licence: MIT"))
    assert all(name in card for name in run.info["augmentations"])
    capsys.readouterr()
    assert main(["runs", "export", run.id, str(folder)]) == 2
    assert "a folder that is not there yet" in capsys.readouterr().err


def test_the_card_of_a_run_on_a_folder_gives_no_licence(store, tmp_path):
    (tmp_path / "own").mkdir()
    for i in range(64):
        Image.new("RGB", (20, 20), (i, 3 * i, 255 - i)).save(tmp_path / "own" / f"{i}.png")
    text = shelf.card(fit(TINY.replace(data=tmp_path / "own", epochs=1), progress=False))
    assert "on 64 images of a folder of 16 x 16 pixels" in text and "the user's own images" in text
    assert "Licence: " not in text and "Twemoji" not in text


def test_nothing_is_exported_of_a_damaged_run(store, tmp_path):
    run = store.read(store.identities()[0])
    (run.folder / "backbone.safetensors").write_bytes(b"x" * (run.folder / "backbone.safetensors").stat().st_size)
    assert main(["runs", "export", run.id, str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_an_empty_store_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mastlib", "runs", "list"],
        capture_output=True, text=True, check=True, env={"MASTLIB_OUTPUTS": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.stdout == "no finished run\n"
