"""Scenes to pre-train on, and those that monitors watch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.data import bank, scenes
from mastlib.data.rendered import Rendered, rendered
from mastlib.data.splits import pretraining_weights
from mastlib.errors import check_choice, check_int

PRETRAIN_SEED, OBJECTS_SEED = 1, 2  # scenes of different sets never coincide; `pools` and `invariance` have others
BADGE_SEED = 11  # of the badges over views of these scenes


def pretraining_images(data: str, count: int, size: int) -> Tensor:
    """`count` scenes to pre-train on, `(count, 3, size, size)` uint8, memory-mapped, the same for every run.

    `data` names the source ("openemoji"); only training concepts appear (see `splits.pretraining_weights`).
    """
    return rendered("pretrain", _latents(data, count), size).images


def pretraining_labels(data: str, count: int) -> tuple[Tensor, list[str]]:
    """The category of each of `pretraining_images`' objects, `(count,)` long, -1 where it has none, and the names."""
    sprites = _latents(data, count)["sprite"][:, 0]
    categories = bank.load_table()["category"].astype("category").cat
    return torch.from_numpy(categories.codes.to_numpy()[sprites].astype(np.int64)), list(categories.categories)


def _latents(data: str, count: int) -> dict[str, np.ndarray]:
    check_choice("data", data, ("openemoji",))
    check_int("images", count, 1)
    weights = pretraining_weights(bank.load_table())
    return scenes.draw(PRETRAIN_SEED, np.arange(count), scenes.OBJECTS, bank.background_count(), weights=weights)


def drawings(size: int, limit: int | None = None) -> tuple[Rendered, pd.DataFrame, dict[str, np.ndarray]]:
    """Every bank image once, in a scene as those of pre-training: the scenes, their rows of the bank's table, their latents.

    `limit`: at most that many, spread evenly over the bank (None: all).
    """
    table = bank.load_table()
    rows = np.arange(len(table))
    if limit is not None and check_int("limit", limit, 1) < len(rows):
        rows = np.unique(np.linspace(0, len(rows) - 1, limit).astype(int))
    latents = scenes.draw(OBJECTS_SEED, rows, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])
    return rendered("objects", latents, size), table.iloc[rows].reset_index(drop=True), latents
