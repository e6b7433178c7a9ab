"""Tests never touch real outputs, and leave the machine's cores to each other."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

_OUTPUTS = tempfile.TemporaryDirectory(prefix="mastlib-outputs-")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MASTLIB_OUTPUTS"] = _OUTPUTS.name  # kernels and other processes inherit it
    os.environ["MASTLIB_REFERENCE"] = f"{_OUTPUTS.name}/reference"  # nothing there: tests make their own results
    os.environ["MPLBACKEND"] = "Agg"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_unconfigure(config: pytest.Config) -> None:
    _OUTPUTS.cleanup()
