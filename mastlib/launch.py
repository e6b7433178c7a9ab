"""A run by several processes: started by torch's launcher, one of them keeps the run, the others follow it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy
except ImportError:  # the same classes from their own, smaller package
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

from mastlib import checkpoints
from mastlib.errors import InputError
from mastlib.files import write_text
from mastlib.runs import RESUME, RunStore, RunWriter
from mastlib.signals import noted
from mastlib.spec import RunSpec

__all__ = ["Fabric", "Follower", "device_here", "fabric_of", "launch", "leading"]
warnings.filterwarnings("ignore", "The `srun` command is available")  # a run by one process is started without it
WAITING = timedelta(days=30)  # the first process may wait for a run that others make, and the others for it
SAYS = "mastlib: "  # how the line begins in which a process says why it cannot go on


def fabric_of(spec: RunSpec, devices: int = 1, nodes: int = 1) -> Fabric:
    """What runs `spec` (resolved) on `devices` of each of `nodes` machines; of several processes, this is one that was started."""
    settings: dict[str, Any] = {"accelerator": "auto", "devices": devices, "num_nodes": nodes}
    settings["precision"] = "bf16-mixed" if spec.precision == "bf16" else "32-true"
    if devices * nodes == 1:
        settings["plugins"] = (
            LightningEnvironment()
        )  # a job that Slurm gave several tasks may train a run in one of them
    else:
        # SwAV's prototypes have no gradient at first.
        settings["strategy"] = DDPStrategy(find_unused_parameters=spec.host == "swav", timeout=WAITING)
    fabric = Fabric(**settings)
    fabric.launch()
    return fabric


def device_here() -> torch.device:
    """What one process of this machine trains on."""
    return Fabric(accelerator="auto", devices=1, plugins=LightningEnvironment()).device


class Follower:
    """What the processes besides the first have for a RunWriter: it reads where the run stands, and writes nothing."""

    def __init__(self, folder: Path, finished: bool) -> None:
        self.folder, self.finished = folder, finished

    def resume(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last checkpoint, in the folder that all processes share."""
        return checkpoints.newest(self.folder / RESUME)

    def log(self, **scalars: Any) -> None:
        """Nothing: the first process does it."""

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Nothing: the first process does it."""

    def finish(self, status: str, info: Mapping[str, Any], **states: Mapping[str, Tensor]) -> None:
        """Nothing: the first process does it."""


@contextlib.contextmanager
def leading(
    fabric: Fabric, store: RunStore, identity: str, spec: RunSpec, *, data: str, closure: Mapping[str, str]
) -> Iterator[RunWriter | Follower]:
    """The run's writer in the first process; in the others a Follower, once the first one has the run."""
    if fabric.world_size == 1:
        with store.writer(identity, spec, data=data, closure=closure) as writer:
            yield writer
    elif fabric.global_rank == 0:
        with store.writer(identity, spec, data=data, closure=closure) as writer:
            fabric.broadcast((str(writer.folder), writer.finished is not None))
            yield writer
    else:
        folder, finished = fabric.broadcast(("", False))
        yield Follower(Path(folder), finished)


def launch(
    spec: RunSpec, store: RunStore, devices: int, progress: bool, checkpoint_seconds: float, held_bytes: float
) -> None:
    """Make the run of `spec` by `devices` processes of this machine; what they print on stderr is printed here.

    Raises InputError with what the processes say where they cannot make it.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.json"
        settings = {
            "spec": spec.to_dict(),
            "store": str(store.root),
            "progress": progress,
            "seconds": checkpoint_seconds,
            "held_bytes": held_bytes,
        }
        write_text(task, json.dumps(settings))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
        command += ["-m", "mastlib.worker", str(task), "--devices", str(devices)]
        said = ""
        # A session of its own: what a terminal sends to all of its processes would reach them twice.
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stderr is not None
            with noted(process.terminate) as asked:  # the launcher tells the processes, which save and end
                for line in process.stderr:
                    if line.startswith(SAYS):
                        said = line.removeprefix(SAYS).strip()
                    elif progress and asked.number is None:  # how the launcher says that it was stopped is no news
                        print(line, end="", file=sys.stderr, flush=True)
                process.wait()
    asked.obey()
    if process.returncode:
        raise InputError(
            said or f"the processes that train ended with code {process.returncode}; what they said stands above"
        )
