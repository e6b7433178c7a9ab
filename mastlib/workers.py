"""Several things to do at once: processes that share this machine's cores, each with as many threads as it is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import joblib
import torch

from mastlib import progress
from mastlib.errors import check_int
from mastlib.files import data_dir, outputs_dir, reference_dir
from mastlib.precision import threads

T = TypeVar("T")
MEMORY = 3e9  # bytes that a process may come to need


def at_once(cpus: int = 1) -> int:
    """How many processes of `cpus` threads this machine has room for: by its cores and memory; one where it has a GPU."""
    if torch.cuda.is_available():
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(joblib.cpu_count() // check_int("cpus", cpus, 1), int(memory / MEMORY)))


def spread(tasks: Sequence[Callable[[], T]], label: str, cpus: int = 1) -> list[T]:
    """What `tasks` return, in their order, each done with `cpus` threads, `at_once` of them at a time.

    Numbers do not depend on how many are done at once. A single one is done in this process. Others are done by processes that
    stay for the next tasks; functions of a notebook are sent to them too. What a task raises is raised here.
    """
    count = min(at_once(cpus), len(tasks))
    if count < 2:
        with threads(cpus):
            return [task() for task in tasks]
    folders = {"MASTLIB_DATA": data_dir(), "MASTLIB_OUTPUTS": outputs_dir(), "MASTLIB_REFERENCE": reference_dir()}
    here = {name: str(folder) for name, folder in folders.items()}
    done = []
    with (
        joblib.parallel_config("loky", inner_max_num_threads=cpus),
        progress.bar(len(tasks), label) as shown,
    ):
        parallel = joblib.Parallel(n_jobs=count, return_as="generator", batch_size=1, pre_dispatch="all")
        for result in parallel(joblib.delayed(_done)(task, cpus, here) for task in tasks):
            done.append(result)
            shown.update()
    return done


def _done(task: Callable[[], T], cpus: int, environment: dict[str, str]) -> T:
    """In a process of its own, which earlier tasks may have had other folders in; its bars would cross the caller's."""
    os.environ |= environment
    with threads(cpus), progress.hidden():
        return task()
