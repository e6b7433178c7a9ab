"""One of the processes that make a run together: `torchrun ... -m mastlib.worker TASK --devices 2`, or by Slurm's srun.

TASK is a JSON file: "spec" (RunSpec's fields), and where they are not the usual ones "store" (the folder of the runs), "progress",
"seconds" (between checkpoints) and "held_bytes" (see `training.fit`). Those of a grid will do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mastlib.data.sources import HELD_BYTES, source_of
from mastlib.errors import InputError
from mastlib.launch import SAYS, fabric_of
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import check_devices, identify, train


def main() -> int:
    """0 the run is there, 2 it cannot be made (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="mastlib.worker", description=__doc__)
    parser.add_argument("task", type=Path)
    parser.add_argument("--devices", type=int, default=1, help="processes on each node")
    parser.add_argument("--nodes", type=int, default=1)
    options = parser.parse_args()
    task: dict[str, Any] = {"store": "", "progress": True, "seconds": 180.0, "held_bytes": HELD_BYTES}
    task |= json.loads(options.task.read_text(encoding="utf-8"))
    try:
        spec = RunSpec.from_dict(task["spec"])
        check_devices(spec, options.devices * options.nodes)
        source = source_of(spec.data, spec.badge)
        spec, _, _ = identify(spec, source.fingerprint)
        fabric = fabric_of(spec, options.devices, options.nodes)
        store = RunStore(Path(task["store"]) if task["store"] else None)
        train(spec, store, fabric, task["progress"], task["seconds"], task["held_bytes"], source)
    except InputError as error:
        print(f"{SAYS}{error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
