"""What test_disk.py runs on a small disk, ROOT: runs that find it full earlier and later, then one that finds room."""

import json
import os
import sys
from pathlib import Path

import torch

from mastlib.errors import InputError
from mastlib.runs import RunStore
from mastlib.shelf import problems
from mastlib.spec import RunSpec
from mastlib.training import fit

torch.set_num_threads(1)
root, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
store, filler, told = RunStore(root / "runs"), root / "filler", []
kept = fit(RunSpec(**spec), progress=False, store=store).id
for seed, free in enumerate(range(0, 360_000, 40_000), start=1):
    filler.unlink(missing_ok=True)
    state = os.statvfs(root)
    filler.write_bytes(b"x" * max(0, state.f_bavail * state.f_frsize - free))
    try:
        fit(RunSpec(**spec, seed=seed), progress=False, store=store, checkpoint_seconds=0)
        said = ""
    except InputError as error:
        said = str(error)
    told.append((seed, said, problems(store), kept in store.identities()))
filler.unlink()
for seed, *_ in told:
    fit(RunSpec(**spec, seed=seed), progress=False, store=store)
finished = [run.rsplit("/", 1)[-1] for run in map(str, store.root.iterdir())]
print(json.dumps({"told": told, "finished": sorted(finished) == store.identities(), "problems": problems(store)}))
