"""A fire drill: one run, killed again and again while it is trained, next to the same run left alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from mastlib import checkpoints
from mastlib.errors import InputError, check_int
from mastlib.files import write_text
from mastlib.runs import RESUME, Run, RunStore, RunWriter
from mastlib.spec import RunSpec
from mastlib.training import fit, identify


def killed_run(spec: RunSpec, root: Path, kills: int) -> tuple[Run, pd.DataFrame]:
    """The run of `spec` in the store `root`, whose processes were killed (SIGKILL) `kills` times while they trained it.

    Every step has a checkpoint, and the k-th process is killed by the kernel as soon as that of step ceil(k / (kills + 1) of the
    steps) lies on the disk, however fast the machine is; the last one ends. The table has a row for each kill: `step`, that of the
    last checkpoint then, and `epoch`, the same in passes over the images.
    Raises InputError where a process ends otherwise than asked, or the run is in `root` already.
    """
    check_int("kills", kills, 0)
    spec, identity, _ = identify(spec)
    store, steps = RunStore(root), spec.total_steps
    if store.finished(identity):
        raise InputError(f"root = {str(root)!r} holds run {identity} already; a drill needs a folder without it")
    rows = []
    for kill in range(1, kills + 1):
        code, said = _process(spec, root, -(-steps * kill // (kills + 1)))
        if code != -signal.SIGKILL:
            raise InputError(f"the run ended before it was killed ({code}): {said}")
        step = int(checkpoints.found(store.working(identity) / RESUME)[-1].stem)
        rows.append({"kill": kill, "step": step, "epoch": step * spec.batch_size / spec.images})
    code, said = _process(spec, root, 0)
    run = store.finished(identity)
    if run is None:
        raise InputError(f"the last process made no run ({code}): {said}")
    return run, pd.DataFrame(rows, columns=["kill", "step", "epoch"]).set_index("kill")


def _process(spec: RunSpec, root: Path, last: int) -> tuple[int, str]:
    """How a process that trains `spec`, to the checkpoint of step `last` if that is not 0, ends, and the last line it says."""
    task = root / "task.json"
    write_text(task, json.dumps({"spec": spec.to_dict()}))
    command = [sys.executable, "-m", "mastlib.drill", str(task), str(root), str(last)]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    return ended.returncode, "".join(ended.stderr.strip().splitlines()[-1:])


class _Doomed(RunStore):
    """A store whose writer's process is killed as soon as it has kept the checkpoint of step `last`."""

    def __init__(self, root: Path, last: int) -> None:
        super().__init__(root)
        self.last = last

    @contextlib.contextmanager
    def writer(self, identity: str, spec: RunSpec, *, data: str, closure: Mapping[str, str]) -> Iterator[RunWriter]:
        with super().writer(identity, spec, data=data, closure=closure) as writer:
            keep = writer.checkpoint

            def fatal(step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
                keep(step, tensors, facts)
                if step == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)

            writer.checkpoint = fatal  # type: ignore[method-assign]
            yield writer


def main() -> int:
    """0 the run is there, 2 it cannot be made (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="mastlib.drill", description="One of the processes of a drill.")
    parser.add_argument("task", type=Path, help="a JSON file with the run's settings under `spec`")
    parser.add_argument("root", type=Path, help="the folder of the runs")
    parser.add_argument("last", type=int, help="the step after whose checkpoint the process is killed; 0: never")
    options = parser.parse_args()
    try:
        spec = RunSpec.from_dict(json.loads(options.task.read_text(encoding="utf-8"))["spec"])
        fit(spec, store=_Doomed(options.root, options.last), progress=False, checkpoint_seconds=0)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
