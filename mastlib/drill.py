"""A fire drill: one run, killed again and again while it is trained, next to the same run left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from mastlib import checkpoints
from mastlib.errors import InputError, check_int
from mastlib.files import write_text
from mastlib.runs import RESUME, Run, RunStore
from mastlib.spec import RunSpec
from mastlib.training import identify

POLL = 0.02  # seconds


def killed_run(spec: RunSpec, root: Path, kills: int) -> tuple[Run, pd.DataFrame]:
    """The run of `spec` in the store `root`, whose processes were killed (SIGKILL) `kills` times while they trained it.

    The k-th process is killed once a checkpoint lies at k / (kills + 1) of the steps or later; the last one ends. The table has a
    row for each kill: `step`, that of the last checkpoint then, and `epoch`, the same in passes over the images.
    Raises InputError where a process ends otherwise than asked, or the run is in `root` already.
    """
    check_int("kills", kills, 0)
    spec, identity, _ = identify(spec)
    store, steps = RunStore(root), spec.total_steps
    if store.finished(identity):
        raise InputError(f"root = {str(root)!r} holds run {identity} already; a drill needs a folder without it")
    rows = []
    for kill in range(1, kills + 1):
        target = -(-steps * kill // (kills + 1))
        with _process(spec, root) as process:
            while _reached(store, identity) < target and process.poll() is None:
                time.sleep(POLL)
            process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
        if process.returncode != -signal.SIGKILL:
            raise InputError(
                f"the run ended before it was killed ({process.returncode}): {said.strip().splitlines()[-1:]}"
            )
        step = _reached(store, identity)
        rows.append({"kill": kill, "step": step, "epoch": step * spec.batch_size / spec.images})
    with _process(spec, root) as process:
        said = process.communicate()[1]
    run = store.finished(identity)
    if run is None:
        raise InputError(f"the last process made no run ({process.returncode}): {said.strip().splitlines()[-1:]}")
    return run, pd.DataFrame(rows, columns=["kill", "step", "epoch"]).set_index("kill")


def _process(spec: RunSpec, root: Path) -> subprocess.Popen[str]:
    task = root / "task.json"
    write_text(task, json.dumps({"spec": spec.to_dict()}))
    command = [sys.executable, "-m", "mastlib", "fit", str(task), "--store", str(root), "--every", "0"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _reached(store: RunStore, identity: str) -> int:
    """The step of the last checkpoint."""
    found = checkpoints.found(store.working(identity) / RESUME)
    return int(found[-1].stem) if found else 0
