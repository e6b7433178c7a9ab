"""What test_together.py runs in each of two processes: the runs of SPECS (JSON) into the store ROOT, one after another."""

import json
import sys
from pathlib import Path

import torch

from mastlib.launch import DDPStrategy, Fabric
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fabric_settings, train

torch.set_num_threads(1)
for settings in json.loads(sys.argv[1]):
    spec = RunSpec.from_dict(settings)
    strategy = DDPStrategy(find_unused_parameters=spec.host == "swav")
    fabric = Fabric(**fabric_settings(spec) | {"devices": 2, "strategy": strategy})
    fabric.launch()
    train(spec, RunStore(Path(sys.argv[2])), fabric, False, 0.0)
