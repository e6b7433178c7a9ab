"""Problems here are tiny: a second thread would only wait for the first, and long on a busy machine.

Coloured squares on grey: pools on which it is known what colour says and what place says.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mastlib.data.pools import Pool

HUES = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "yellow": (220, 220, 20)}
VENDORS = ("twemoji", "openmoji", "noto", "fluent-3d")
GRID = (1e-2, 1.0, 100.0)


def make_pool(name: str, n: int = 480, side: int = 16) -> Pool:
    """A coloured square on grey: hue is its colour, x and y its place; each concept is drawn by every vendor once."""
    rng = np.random.default_rng(5 if name == "objects" else 6)
    corner = rng.integers(0, side - 3, size=(n, 2))
    hue = rng.choice(list(HUES), size=n)
    images = torch.full((n, 3, side, side), 128, dtype=torch.uint8)
    for i, (row, column) in enumerate(corner):
        images[i, :, row : row + 4, column : column + 4] = torch.tensor(HUES[hue[i]], dtype=torch.uint8)[:, None, None]
    concept = np.arange(n) // len(VENDORS)
    table = pd.DataFrame({
        "vendor": np.tile(VENDORS, n // len(VENDORS)), "concept": [f"c{c}" for c in concept],
        "key": [f"k{c}" for c in concept], "hue": hue, "category": hue,
        "subcategory": np.where(np.arange(n) < 30, "rare", hue), "tone": None,
        "flag": np.where(concept % 2 == 0, hue, None), "pointing": np.where(concept % 2 == 1, hue, None),
        "x": (corner[:, 1] + 2) / side, "y": (corner[:, 0] + 2) / side, "scale": rng.random(n),
        "rotation": rng.uniform(-0.5, 0.5, n), "hue_shift": rng.uniform(-0.5, 0.5, n),
        "split": np.array(["train", "train", "train", "val", "test"])[concept % 5],
    })  # fmt: skip
    return Pool(name, images, table, f"{name}-1")


class MeanColour(nn.Module):
    """Knows colours and no places."""

    seen = 0  # images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.mean(dim=(2, 3))


class Profiles(nn.Module):
    """Knows places: how much each row and each column differs from the background."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        ink = (images - images[:, :, :1, :1].median()).abs().sum(1)
        return torch.cat([ink.mean(1), ink.mean(2)], dim=1)


@pytest.fixture(scope="session")
def squares() -> SimpleNamespace:
    """The above, for tests: a file of tests cannot import another one."""
    return SimpleNamespace(make_pool=make_pool, MeanColour=MeanColour, Profiles=Profiles)


@pytest.fixture(scope="module")
def pools() -> dict[str, Pool]:
    return {name: make_pool(name) for name in ("objects", "latents")}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
