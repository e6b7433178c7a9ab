"""Every chapter alone, from an empty store, with parameters that a reader may choose.

All of it takes two cores a quarter of an hour; where CI is set, each chapter is executed with the first of its sets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mastlib import book
from mastlib.files import outputs_dir

ROOT = Path(__file__).parents[2]
SHORT = {"images": 256, "epochs": 1, "warmup_epochs": 0, "width": 4}  # networks that hardly train
OTHER: dict[str, list[dict[str, Any]]] = {
    "01_images_and_tasks": [{"seeds": [3]}, {"seeds": [1, 2]}],
    "02_augmentations": [{"preset": "extended15", "pairs": 64}, {"preset": "spatial", "pairs": 1, "seed": 3}],
    "03_motivation_ablation": [
        {"host": "simsiam", "overrides": SHORT},
        {"host": "supervised", "augmentations": "appearance", "seeds": [1, 2], "overrides": SHORT},
    ],
    "04_mast_training": [
        {"few": "spatial", "many": "default", "rounds": 1, "overrides": SHORT},
        {"badges": [0.2, 0.3, 0.45], "rounds": 1, "seeds": [2], "overrides": SHORT},
    ],
    "05_augself_cassle": [
        {"hosts": ["byol"], "targets_of": "byol", "modes_of": "simclr", "modes": ["add"], "jitter": [], "scenes": [],
         "images": 1024, "pairs": 64, "queries": 2, "overrides": SHORT},
        {"hosts": ["supervised"], "modes": [], "jitter": ["augself_weak"], "scenes": ["detection_frozen"],
         "augmentations": "moco_v2", "images": 1024, "pairs": 64, "overrides": SHORT},
    ],
    "06_mask_analysis": [
        {"augmentations": "moco_v2", "images": 64, "overrides": SHORT},
        {"augmentations": "standard5", "images": 64, "seeds": [0, 4], "overrides": {**SHORT, "uncertainty": "none"}},
    ],
    "07_uncertainty": [
        {"augmentations": "standard5", "images": 32, "gallery": "crop", "overrides": SHORT},
        {"gallery": "rotate", "images": 48, "seeds": [0, 1], "overrides": SHORT},
    ],
    "08_why_transfer": [
        {"host": "simclr", "images": 16, "objects": 4, "overrides": SHORT},
        {"host": "barlow", "images": 32, "objects": 2, "seeds": [0, 1], "overrides": SHORT},
    ],
    "09_claims_ledger": [{"tier": "laptop"}, {"tier": "gpu"}],
    "10_method_catalogue": [{"augmentations": "extended15", "steps": 1}, {"augmentations": "vicreg", "steps": 2}],
    "11_runs": [
        {"host": "simsiam", "awareness": "none", "kills": 1, "overrides": {**SHORT, "epochs": 4}},
        {"host": "vicreg", "awareness": "mast", "kills": 1, "seed": 3, "overrides": {**SHORT, "epochs": 4}},
    ],
    "a1_reconstruction": [{"tier": "laptop"}, {"tier": "paper"}],
    "a2_losses": [{"images": 8, "dim": 4, "queue": 3}, {"images": 16, "prototypes": 3, "seed": 5}],
}  # fmt: skip


def test_every_chapter_of_the_book_is_here():
    _, chapters = book.plan(ROOT, "smoke", {})
    assert [chapter.short for chapter in chapters] == list(OTHER)
    for chapter in chapters:
        usual = {**chapter.values, "tier": "smoke"}
        assert len(OTHER[chapter.short]) >= 2
        assert all({**usual, **given} != usual for given in OTHER[chapter.short])


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name, sets in OTHER.items() for given in (sets[:1] if os.environ.get("CI") else sets)],
)
def test_a_chapter_runs_alone_from_an_empty_store(
    name: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = outputs_dir() / "cache"  # rendered images are no runs: shared, for time
    cache.mkdir(exist_ok=True)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "cache").symlink_to(cache)
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "outputs"))
    tier = given.get("tier", "smoke")
    chosen = {key: value for key, value in given.items() if key != "tier"}
    _, chapters = book.plan(ROOT, tier, {name: chosen})
    done = book.execute(book.find(chapters, name), tier)
    notebook = nbformat.read(done, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs and all(output.output_type != "error" for output in outputs)
