"""Badges: a keycap with a digit laid over a scene or its views, a second cue beside the object, the larger the easier to see."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

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
    badge = _side(badge)
    which, across, down = _drawn(index, seed)
    second = {
        "sprite": keycaps().ravel()[which],
        "x": badge / 2 + (1 - badge) * across,
        "y": badge / 2 + (1 - badge) * down,
        "scale": np.full(len(which), badge),
        "rotation": np.zeros(len(which)),
        "hue_shift": np.zeros(len(which)),
        "value": np.ones(len(which)),
    }
    return {
        name: np.concatenate([values, second[name][:, None].astype(values.dtype)], axis=1) if name in second else values
        for name, values in latents.items()
    }


class Badges:
    """The badges of side `badge`, a fraction of the side of views, that are laid over views of `size` px, on `device`.

    Digit, vendor and place are drawn as in `badged`; the place is one of whole pixels, and so is the side, at least one.
    Raises InputError for a `badge` out of range. Source: after Chen, Luo, Li 2021, who put nine copies of a digit
    on an image before it is augmented, so that views share some.
    """

    def __init__(self, badge: float, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.side, self.size, self.seed = max(1, round(_side(badge) * size)), size, seed
        drawings = bank.load_bank().images[torch.from_numpy(keycaps().ravel())]
        layers = scenes.prepare_sprites(drawings, self.side)[:, :4].float() / 255
        self.layers = layers.permute(0, 2, 3, 1).to(device)  # colour times alpha, and alpha

    def lay(self, views: Tensor, index: Tensor) -> None:
        """Over `views` `(V, N, 3, S, S)` in [0, 1], in place: all V views of an image get the badge of its `index` `(N,)`, alike.

        Laid after the augmentations, neither cropped nor changed by them, it is a cue that all views share."""
        which, across, down = _drawn(index.cpu().numpy(), self.seed)
        free, reach = self.size - self.side + 1, np.arange(self.side)
        rows, columns = ((part * free).astype(np.int64)[:, None] + reach for part in (down, across))
        places = np.arange(len(which))[:, None, None], rows[:, :, None], columns[:, None, :]
        where = tuple(torch.from_numpy(place).to(views.device) for place in places)
        layers = self.layers[torch.from_numpy(which).to(views.device)][..., None, :]
        pixels = views.permute(1, 3, 4, 0, 2)
        pixels[where] = pixels[where] * (1 - layers[..., 3:]) + layers[..., :3]


def _side(badge: float) -> float:
    badge = check_float("badge", badge, 0, LARGEST)
    if not badge:
        raise refuse("badge", badge, f"a number above 0, at most {LARGEST:g}")
    return badge


def _drawn(index: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the badges `index` `(N,)`: which of all `keycaps`, in a row, and how far across and down they lie, in [0, 1)."""
    digit, vendor, across, down = scenes.uniforms(seed, np.asarray(index), 4).T
    style = (vendor * len(bank.VENDORS)).astype(np.int64)
    return style * len(DIGITS) + (digit * len(DIGITS)).astype(np.int64), across, down


def keycaps() -> np.ndarray:
    """The bank's rows of the keycaps `(5, 10)`: the digits 0 to 9 of each vendor, in the order of `bank.VENDORS`."""
    table = bank.load_table()
    rows = {drawing: row for row, drawing in enumerate(zip(table["vendor"], table["key"], strict=True))}
    return np.array([[rows[vendor, f"{ord(digit):04X}-20E3"] for digit in DIGITS] for vendor in bank.VENDORS])
