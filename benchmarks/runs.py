"""What keeping a run costs: the share of training that goes into checkpoints, and the time until a finished run is there.

    python benchmarks/runs.py [--json FILE] [--tier laptop --epochs 4]

Trains VICReg and MoCo of the tier in a folder of its own, then asks for each again in a fresh process: from the call of `fit` to
the return of the finished run, and to its weights, imports apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mastlib import provenance
from mastlib.files import write_text
from mastlib.resume import Keeper
from mastlib.spec import RunSpec
from mastlib.tiers import TIERS, tier_spec
from mastlib.training import fit

AGAIN = """
import json, sys, time
from mastlib.spec import RunSpec
from mastlib.training import fit
start = time.perf_counter()
run = fit(RunSpec(**json.loads(sys.argv[1])), progress=False)
found = time.perf_counter() - start
run.weights("backbone"), run.metrics()
print(json.dumps([found, time.perf_counter() - start]))
"""


def measure(spec: RunSpec) -> dict[str, Any]:
    """Train `spec`, its checkpoints timed, and ask for it again."""
    save, spent = Keeper.save, []

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        save(*arguments)
        spent.append(time.perf_counter() - start)

    Keeper.save = timed  # type: ignore[method-assign]
    try:
        run = fit(spec, progress=False)
    finally:
        Keeper.save = save  # type: ignore[method-assign]
    again = subprocess.run(
        [sys.executable, "-c", AGAIN, json.dumps(run.spec.to_dict())], capture_output=True, text=True, check=True
    )
    found, read = json.loads(again.stdout.splitlines()[-1])
    seconds = run.info["seconds"]
    row = {"host": spec.host, "checkpoints": len(spent), "saving_seconds": sum(spent), "training_seconds": seconds}
    return row | {"share": sum(spent) / seconds, "found_seconds": found, "read_seconds": read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file that the results are written to")
    parser.add_argument("--tier", choices=TIERS, default="laptop")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    about: dict[str, Any] = {"machine": provenance.hardware(), "threads": torch.get_num_threads(), "tier": options.tier}
    about["versions"] = provenance.versions()
    print(json.dumps(about))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MASTLIB_OUTPUTS"] = folder
        for host in ("vicreg", "moco"):
            rows.append(measure(tier_spec(options.tier, host=host, augmentations="standard5", epochs=options.epochs)))
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    if options.json:
        write_text(options.json, json.dumps({**about, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
