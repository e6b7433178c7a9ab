"""What test_processes.py runs in a process of its own: `fit`, with a checkpoint after every step.

Given by `runpy.run_path`: SPEC, ROOT, HELD_BYTES (see `fit`), STARTED (an event, set when training begins), IN_WRITE (0, or the
number of the checkpoint in whose write the process dies: an odd one before the file gets its name, an even one after).
"""

import os
import signal

import torch

from mastlib import resume, training
from mastlib.data import sources
from mastlib.runs import RunStore
from mastlib.spec import RunSpec

torch.set_num_threads(1)
sources.WORKERS = 1  # each takes seconds to start
replace, restore, written = os.replace, resume.Keeper.restore, []


def dying(source, target):
    """`os.replace` that ends the process before or after the IN_WRITE-th checkpoint."""
    written.extend([target] if str(target).endswith(".safetensors") else [])
    now = IN_WRITE and len(written) == IN_WRITE  # noqa: F821 - given
    if now and IN_WRITE % 2:  # noqa: F821
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


def restored(keeper):
    """`Keeper.restore` that says so."""
    place = restore(keeper)
    STARTED.set()  # noqa: F821
    return place


os.replace, resume.Keeper.restore = dying, restored
training.fit(RunSpec(**SPEC), progress=False, store=RunStore(ROOT), checkpoint_seconds=0, held_bytes=HELD_BYTES)  # noqa: F821
