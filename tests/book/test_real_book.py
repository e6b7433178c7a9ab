"""The book itself, at the smoke tier, as `make book TIER=smoke` builds it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHAPTERS = [
    "01_images_and_tasks", "02_augmentations", "03_motivation_ablation", "04_mast_training", "05_augself_cassle",
    "06_mask_analysis", "07_uncertainty", "08_why_transfer", "09_claims_ledger", "10_method_catalogue", "11_runs",
    "a1_reconstruction", "a2_losses",
]  # fmt: skip


def git_status() -> str:
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.skipif(not all((ROOT / "chapters" / f"{name}.ipynb").is_file() for name in CHAPTERS), reason="no chapters")
def test_the_book_builds_offline_and_leaves_the_checkout_alone(
    tmp_path: Path, fetched_from_elsewhere: Callable[[Path], list[str]], images_without_alt: Callable[[Path], list[str]]
) -> None:
    command = [sys.executable, "-m", "mastlib.book", "--tier", "smoke"]
    environment = os.environ | {"MASTLIB_OUTPUTS": str(tmp_path)}
    status = git_status()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    index = Path(done.stdout.splitlines()[-1])
    assert index == tmp_path / "book" / "html" / "index.html"
    for name in CHAPTERS:
        assert "Smoke tier" in (index.parent / "chapters" / f"{name}.html").read_text(encoding="utf-8")
    assert fetched_from_elsewhere(index.parent) == []
    assert images_without_alt(index.parent) == []
    assert git_status() == status

    started = time.monotonic()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 60
    assert "executing" not in again.stdout
    assert "html: nothing changed" in again.stdout
