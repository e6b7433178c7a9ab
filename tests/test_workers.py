"""Things done at once give what they give one after another, in the caller's folders."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from mastlib import workers
from mastlib.errors import InputError
from mastlib.files import outputs_dir
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.study import run_study
from mastlib.workers import at_once, spread

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=128, batch_size=32, epochs=1,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
)  # fmt: skip


@pytest.fixture
def two(monkeypatch):
    """A machine with room for two."""
    monkeypatch.setattr(workers, "at_once", lambda cpus=1: 2)


def test_results_come_in_the_order_of_the_tasks_from_other_processes(two):
    def square(number):  # of this function, which no module holds
        return number**2, os.getpid()

    found = spread([partial(square, k) for k in range(6)], "squares")
    assert [value for value, _ in found] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in found} and len({process for _, process in found}) <= 2


def test_each_has_the_threads_it_is_given_and_this_process_keeps_its_own(two):
    before = torch.get_num_threads()
    assert spread([torch.get_num_threads] * 3, "threads", 1) == [1] * 3
    assert spread([torch.get_num_threads], "one", 1) == [1]  # in this process
    assert torch.get_num_threads() == before


def test_a_process_that_stays_works_in_the_folders_of_its_next_caller(two, monkeypatch, tmp_path):
    for name in ("first", "second"):
        monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / name))
        assert spread([outputs_dir] * 2, "folders") == [tmp_path / name] * 2


def test_what_a_task_raises_is_raised_here(two):
    def refused():
        raise InputError("lr = 0 cannot be used")

    with pytest.raises(InputError, match="lr = 0 cannot be used"):
        spread([refused, int], "tasks")


@pytest.mark.parametrize(
    ("cores", "gigabytes", "cpus", "room"), [(8, 64, 1, 8), (8, 64, 2, 4), (8, 8, 1, 2), (2, 64, 4, 1)]
)
def test_there_is_room_by_cores_and_by_memory(monkeypatch, cores, gigabytes, cpus, room):
    monkeypatch.setattr(workers.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(workers.os, "sysconf", {"SC_PAGE_SIZE": 10**3, "SC_PHYS_PAGES": gigabytes * 10**6}.get)
    monkeypatch.setattr(workers.torch.cuda, "is_available", lambda: False)
    assert at_once(cpus) == room


def test_one_at_a_time_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(workers.torch.cuda, "is_available", lambda: True)
    assert at_once() == 1


def test_runs_have_the_same_bits_and_rows_however_many_are_made_at_once(monkeypatch, tmp_path):
    made = {}
    for count in (1, 2):
        monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / str(count)))
        monkeypatch.setattr(workers, "at_once", lambda cpus=1, count=count: count)
        found = run_study({"arm": TINY}, [0, 1], "smoke", ["tone"])
        files = [RunStore().finished(run.id).info["files"]["backbone.safetensors"]["sha256"] for run in found.of("arm")]
        made[count] = files, found.rows["value"].tolist()
    assert made[1] == made[2] and len(set(made[1][0])) == 2
