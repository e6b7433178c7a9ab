"""Where a result comes from, besides its spec: the checkout's state, the versions, the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch


def git_state() -> dict[str, Any] | None:
    """Commit and whether the checkout that holds this package differs from it; None outside a checkout."""
    top = Path(__file__).resolve().parents[1]
    answers = []
    for arguments in (["rev-parse", "--show-toplevel", "HEAD"], ["status", "--porcelain"]):
        command = ["git", "--no-optional-locks", "-C", str(top), *arguments]
        try:
            answers.append(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)
        except (OSError, subprocess.SubprocessError):
            return None
    folder, commit = answers[0].split("\n")[:2]
    return {"commit": commit, "dirty": bool(answers[1])} if Path(folder) == top else None


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that decide a run's numbers; None for one that is not installed as a package."""
    # torch says its build (CUDA or CPU) only itself.
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in ("torchvision", "numpy", "mastlib"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # this package, used from its folder
            found[package] = None
    return found


def hardware() -> str:
    """The GPU's name, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()
