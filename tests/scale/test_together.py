"""Two processes with half of every batch each end where one process with all of it ends."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mastlib import checkpoints
from mastlib.augment.presets import get_pipeline
from mastlib.distributed import SyncBatchNorm, synchronise
from mastlib.errors import InputError
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit

HERE = Path(__file__).parent
# A small rate: at ten times as much SimCLR turns a difference of 1e-7 in one process's weights into one of 1e-3 in three steps.
TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=512, batch_size=128, epochs=2,
    warmup_epochs=0, optimizer="sgd", lr=0.002, weight_decay=1e-4, precision="fp32", memory_format="contiguous", compile="off",
    augmentations="standard5",
)  # fmt: skip
MAST = {"awareness": "mast", "pairing": "isolate_one", "augmentations": "extended15", "uncertainty": "reweight"}
SPECS = {
    "simclr": TINY.replace(host="simclr"), "vicreg": TINY, "mast": TINY.replace(**MAST), "badge": TINY.replace(badge=0.3),
    "moco": TINY.replace(host="moco", queue=300), "barlow": TINY.replace(host="barlow"),
    "swav": TINY.replace(host="swav", prototypes=8, freeze_prototypes=0.25),
    "byol + cassle": TINY.replace(host="byol", awareness="cassle"),
    "simsiam + augself": TINY.replace(host="simsiam", awareness="augself", lr=0.0005),
    "supervised": TINY.replace(host="supervised", projector=()),
    "looc": TINY.replace(host="moco", queue=300, awareness="looc", pairing="leave_one_out"),
}  # fmt: skip

FIT = """
import json, sys
from pathlib import Path
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit
fit(RunSpec.from_dict(json.loads(sys.argv[1])), store=RunStore(Path(sys.argv[2])), devices=2)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Runs of all SPECS that two processes made."""
    root = tmp_path_factory.mktemp("together")
    specs = json.dumps([spec.to_dict() for spec in SPECS.values()])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, str(HERE / "together.py"), specs, str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return RunStore(root)


@pytest.mark.parametrize("name", SPECS)
def test_two_processes_end_at_the_weights_of_one(name, store, tmp_path):
    alone = fit(SPECS[name], progress=False, store=RunStore(tmp_path))
    together = store.finished(alone.id)
    assert together is not None and together.info["devices"] == 2 and alone.info["devices"] == 1
    start = fit(SPECS[name].replace(lr=1e-8), progress=False, store=RunStore(tmp_path)).weights("method")
    states = together.weights("method"), alone.weights("method")
    for key, value in states[1].items():
        torch.testing.assert_close(
            states[0][key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    moved = max(float((value - start[key]).abs().max()) for key, value in states[1].items() if "weight" in key)
    assert moved > 2e-4, "training did something"
    timing = ["seconds", "images_per_second"]
    metrics = [run.metrics().drop(columns=timing) for run in (together, alone)]
    pd.testing.assert_frame_equal(*metrics, rtol=1e-3, atol=1e-4)


def test_fit_starts_the_processes_and_a_stopped_run_goes_on_with_one(tmp_path, capfd):
    store = RunStore(tmp_path / "two")
    run = fit(TINY, progress=True, store=store, devices=2)
    assert run.info["devices"] == 2 and run.info["status"] == "ok"
    assert "vicreg seed 0" in capfd.readouterr().err
    assert fit(TINY, store=store).id == run.id, "the number of devices is no part of what a run is"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_passed_on_and_all_save(number, tmp_path):
    spec = TINY.replace(epochs=2000)
    store = RunStore(tmp_path)
    command = [sys.executable, "-c", FIT, json.dumps(spec.to_dict()), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (rows := list(tmp_path.glob(".*.partial/metrics.csv"))) or not rows[0].read_text():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number if number == signal.SIGTERM else "KeyboardInterrupt" in said
    assert "SignalException" not in said
    folder = store.working(*store.unfinished())
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    (last,) = checkpoints.found(folder / "resume")[-1:]
    epochs = len(rows[0].read_text().splitlines()) - 1
    assert epochs * 4 <= int(last.stem) < 8000 and list(tmp_path.glob("*.lock")) == []


def test_each_of_two_processes_streams_its_part_of_a_folder_and_says_which_file_is_damaged(tmp_path):
    folder, draw = tmp_path / "folder", np.random.default_rng(0)
    folder.mkdir()
    for i in range(TINY.images):
        Image.fromarray(draw.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    spec = TINY.replace(data=folder)
    together = fit(spec, progress=False, store=RunStore(tmp_path / "two"), devices=2, held_bytes=0)
    alone = fit(spec, progress=False, store=RunStore(tmp_path / "one"))
    assert together.id == alone.id and together.info["devices"] == 2
    states = together.weights("method"), alone.weights("method")
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key], value, rtol=1e-5, atol=1e-5)
    damaged = folder / "77.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(InputError, match=r"77\.png' cannot be decoded") as refusal:
        fit(spec, progress=False, store=RunStore(tmp_path / "two"), devices=2, held_bytes=0)
    assert "\n" not in str(refusal.value)


def test_what_the_processes_say_reaches_the_caller(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file"):
        fit(TINY, progress=False, store=RunStore(tmp_path / "file"), devices=2)


@pytest.mark.parametrize("devices", [0, 3, 1.5, "two"])
def test_devices_that_cannot_share_a_batch_are_refused(devices, tmp_path):
    with pytest.raises(InputError, match="devices"):
        fit(TINY, store=RunStore(tmp_path), devices=devices)


@pytest.mark.parametrize("pairing", ["independent", "isolate_one", "isolate_each", "mixed", "leave_one_out"])
def test_parts_of_a_batch_get_the_views_that_the_whole_batch_gets(pairing):
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pipeline = get_pipeline("standard5", 16)
    whole = pipeline.views(images, pairing, torch.Generator().manual_seed(1), color_diff=True)
    parts = [
        pipeline.views(half, pairing, torch.Generator().manual_seed(1), color_diff=True, part=(number, 3))
        for number, half in enumerate(images.chunk(3))
    ]
    assert torch.equal(torch.cat([part.images for part in parts], dim=1), whole.images)
    assert torch.equal(torch.cat([part.color_diff for part in parts], dim=1), whole.color_diff)
    assert torch.equal(torch.cat([part.changed for part in parts]), whole.changed)
    for name in pipeline.names:
        assert torch.equal(torch.cat([part.params[name] for part in parts], dim=1), whole.params[name])
    for wrong in ((2, 2), (-1, 2), (0, 0), (0, 1.5)):
        with pytest.raises(InputError, match="part"):
            pipeline.views(images, pairing, part=wrong)


def test_batch_norms_keep_their_names_and_evaluate_alike():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.BatchNorm1d(784)
    )
    x = torch.rand(5, 3, 16, 16)
    plain(x)
    state, expected = plain.state_dict(), plain.eval()(x)
    made = synchronise(plain, torch.device("cpu"))
    assert isinstance(made[1], SyncBatchNorm) and isinstance(made[3], SyncBatchNorm)
    assert list(made.state_dict()) == list(state)
    torch.testing.assert_close(made(x), expected)
