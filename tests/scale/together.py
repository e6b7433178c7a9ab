"""What test_together.py runs in each of two processes: the runs of SPECS (JSON) into the store ROOT, one after another."""

import json
import sys
from pathlib import Path

import torch

from mastlib.launch import fabric_of
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import train

torch.set_num_threads(1)
for settings in json.loads(sys.argv[1]):
    spec = RunSpec.from_dict(settings)
    train(spec, RunStore(Path(sys.argv[2])), fabric_of(spec, devices=2), False, 0.0)
