"""Tests never touch real outputs, and leave the machine's cores to each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch

from mastlib import workers

_OUTPUTS = tempfile.TemporaryDirectory(prefix="mastlib-outputs-")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MASTLIB_OUTPUTS"] = _OUTPUTS.name  # kernels and other processes inherit it
    os.environ["MASTLIB_REFERENCE"] = f"{_OUTPUTS.name}/reference"  # nothing there: tests make their own results
    os.environ["MPLBACKEND"] = "Agg"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_unconfigure(config: pytest.Config) -> None:
    _OUTPUTS.cleanup()


@pytest.fixture(scope="session", autouse=True)
def _one_at_a_time() -> Iterator[None]:
    """In this process, where a test can put something in another's place; `test_workers` has other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "at_once", lambda cpus=1: 1)
        yield
