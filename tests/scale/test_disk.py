"""A disk that is full at any moment of a run ends it with one line; what was there is whole, and with room the run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 16), "image_size": 16, "images": 64,
    "batch_size": 32, "epochs": 3, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32",
    "memory_format": "contiguous", "compile": "off",
}  # fmt: skip
SMALL = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@"'


def test_a_full_disk_ends_a_run_with_one_line_and_a_whole_store(tmp_path):
    if subprocess.run([*SMALL, MOUNT, "sh", str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("this system mounts no small disk for a test")
    command = [
        *SMALL,
        MOUNT,
        "sh",
        str(tmp_path),
        sys.executable,
        str(HERE / "full.py"),
        str(tmp_path),
        json.dumps(TINY),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    messages = [said for _, said, _, _ in found["told"] if said]
    assert len(messages) >= 3 and not found["told"][-1][1], "some too full, the last with room"
    for said in messages:
        assert said.startswith("cannot write ") and said.endswith("No space left on device") and "\n" not in said
    assert len({said.split(":")[0].rsplit("/", 1)[-1] for said in messages}) >= 2, "at different files"
    assert all(damaged == [] and there for _, _, damaged, there in found["told"])
    assert found["finished"] and found["problems"] == []
