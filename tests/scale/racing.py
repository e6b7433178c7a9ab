"""What test_processes.py runs in two processes: each asks for the same runs, one seed after another, at the same moments.

Given by `runpy.run_path`: SPEC, ROOT, SEEDS, BARRIER, ANSWERS (a queue of seed, run id, and whether this process trained it).
"""

import torch

from mastlib import training
from mastlib.runs import RunStore
from mastlib.spec import RunSpec

torch.set_num_threads(1)
train, trained = training._train, []


def counted(spec, *rest):
    """`_train`, noted."""
    trained.append(spec.seed)
    train(spec, *rest)


training._train = counted
for seed in SEEDS:  # noqa: F821 - given
    BARRIER.wait(60)  # noqa: F821
    run = training.fit(RunSpec(**SPEC, seed=seed), progress=False, store=RunStore(ROOT))  # noqa: F821
    ANSWERS.put((seed, run.id, run.info["status"], seed in trained))  # noqa: F821
