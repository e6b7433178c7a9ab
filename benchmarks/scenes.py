"""Scenes rendered per second from the embedded bank, one object each, at 32 and 64 pixels."""

from __future__ import annotations

import time

import numpy as np
import torch

from mastlib.data import bank, scenes


def rate(size: int, ranges: scenes.Ranges, total: int = 8192, batch: int = 512) -> float:
    """Scenes a second over `total` scenes, after one batch to warm up; drawing the latents is included."""
    table = bank.load_table()
    render = scenes.Renderer(bank.load_bank().images, bank.load_backgrounds(), size)
    weights = np.ones(len(table))
    for start in range(-batch, total, batch):
        if start == 0:
            begun = time.perf_counter()
        index = np.arange(batch) + start + batch
        render(scenes.draw(0, index, ranges, bank.background_count(), weights=weights))
    return total / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in (32, 64):
        for name, ranges in (("objects", scenes.OBJECTS), ("latents", scenes.LATENTS)):
            print(f"{size} px, {name}: {rate(size, ranges):,.0f} scenes/s")
