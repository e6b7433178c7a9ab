"""Badges: a keycap with a digit laid over a scene, a second cue beside its object, whose size says how easy it is to see."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mastlib.data import bank, scenes
from mastlib.errors import check_float, refuse

DIGITS = tuple("0123456789")
LARGEST = 0.5  # side of a badge, in sides of the canvas


def badged(latents: Mapping[str, np.ndarray], index: np.ndarray, badge: float, seed: int) -> dict[str, np.ndarray]:
    """`latents` (of `scenes.draw`, one object each) of the scenes `index` `(N,)`, with a badge as second object, over the first.

    badge: its side, a fraction of the canvas', above 0 and up to 0.5; the larger, the easier. Digit, vendor and place are functions
    of (seed, index), independent of the scene and of one another: each digit and each vendor is as likely, and the badge, upright
    and in its own colours, lies anywhere that is wholly inside the canvas. Badges of any size have the same digits, and places in
    proportion. Light and blur are the scene's.
    Raises InputError for a `badge` out of range. Source: after Chen, Luo, Li 2021, digits laid over photographs.
    """
    badge = check_float("badge", badge, 0, LARGEST)
    if not badge:
        raise refuse("badge", badge, f"a number above 0, at most {LARGEST:g}")
    digit, vendor, across, down = scenes.uniforms(seed, np.asarray(index), 4).T
    rows = keycaps()
    second = {
        "sprite": rows[(vendor * len(rows)).astype(np.int64), (digit * len(DIGITS)).astype(np.int64)],
        "x": badge / 2 + (1 - badge) * across,
        "y": badge / 2 + (1 - badge) * down,
        "scale": np.full(len(digit), badge),
        "rotation": np.zeros(len(digit)),
        "hue_shift": np.zeros(len(digit)),
        "value": np.ones(len(digit)),
    }
    return {
        name: np.concatenate([values, second[name][:, None].astype(values.dtype)], axis=1) if name in second else values
        for name, values in latents.items()
    }


def keycaps() -> np.ndarray:
    """The bank's rows of the keycaps `(5, 10)`: the digits 0 to 9 of each vendor, in the order of `bank.VENDORS`."""
    table = bank.load_table()
    rows = {drawing: row for row, drawing in enumerate(zip(table["vendor"], table["key"], strict=True))}
    return np.array([[rows[vendor, f"{ord(digit):04X}-20E3"] for digit in DIGITS] for vendor in bank.VENDORS])
