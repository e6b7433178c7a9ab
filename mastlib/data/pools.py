"""Image sets that frozen features are evaluated on, each with a table of what is known of its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.data import bank, scenes
from mastlib.data.badges import badged
from mastlib.data.pretraining import OBJECTS_SEED, drawings
from mastlib.data.rendered import rendered
from mastlib.data.splits import concept_split
from mastlib.errors import check_choice, check_int, refuse

LATENTS_SEED, SEVERAL_SEED, TURNED_SEED, MIRRORED_SEED = 3, 6, 7, 8  # scenes of different sets never coincide
BADGED_SEED = 10
LATENTS_IMAGES, SEVERAL_IMAGES = 6144, 2048  # unless a tier asks for fewer
ENLARGED = 2  # the side of a scene with several objects, in sides of one with one: its objects are about as large
UPRIGHT = (
    "Activities", "Animals & Nature", "Food & Drink", "Objects", "Smileys & Emotion", "Travel & Places",
)  # fmt: skip
BOX = ("x0", "y0", "x1", "y1")
BADGED = "badged"


@dataclass(frozen=True)
class Pool:
    """Images to evaluate frozen features on: images `(M, 3, S, S)` uint8 and a table of M rows (the bank's labels, the
    scene's latents, and `split`: train, val or test, by concept). Where scenes hold several objects, the table is of the first,
    and `boxes` `(M, O, 4)` (in pixels, see `scenes.Scenes`), `masks` (see `rendered.Rendered`) and `sprites` `(M, O)`, rows of the
    bank, -1 where there is none, are of all."""

    name: str
    images: Tensor
    table: pd.DataFrame
    fingerprint: str
    boxes: Tensor | None = None
    masks: Tensor | None = None
    sprites: Tensor | None = None


def load_pool(name: str, size: int, limit: int | None = None, badge: float = 0.0) -> Pool:
    """A pool at `size` px: one of POOLS.

    "objects": every bank image once, labels intact. "latents": one object, every latent varies; x0, y0, x1, y1 is the box of
    what is visible of it, in fractions of the side. "turned": drawings that have an upright way, turned by `turn` quarters.
    "mirrored": drawings of activities that face left, as they are and mirrored; `faces` says which. "several": scenes of two
    to five objects, 2 `size` px. "badged": those of "objects", but for keycaps, each with a badge of side `badge` (which no other
    pool takes; see `badges.badged`) over it: `digit`, `badge_vendor`, and where it lies, `badge_x` and `badge_y`, in fractions of
    the side. `limit`: at most that many images, spread evenly over the pool's order (None: all). Raises InputError.
    """
    check_choice("pool", name, (*POOLS, BADGED))
    if limit is not None:
        check_int("limit", limit, 1)
    if name == BADGED:
        return _badged(size, limit, badge)
    if badge:
        raise refuse("badge", badge, f"0 with the pool {name!r}, whose scenes have no badge")
    return POOLS[name](size, limit)


def side_of(pool: Pool, side: str, count: int) -> np.ndarray:
    """At most `count` rows of a side of the split by concept ("train", "val", "test"), evenly over it."""
    return _spread(np.flatnonzero(pool.table["split"] == side), count)


def _objects(size: int, limit: int | None) -> Pool:
    made, rows, latents = drawings(size, limit)
    return Pool("objects", made.images, _table(rows, latents), made.fingerprint)


def _latents(size: int, limit: int | None) -> Pool:
    table = bank.load_table()
    index = np.arange(min(limit or LATENTS_IMAGES, LATENTS_IMAGES))
    latents = scenes.draw(LATENTS_SEED, index, scenes.LATENTS, bank.background_count(), weights=_once(table))
    made = rendered("latents", latents, size)
    frame = _table(table.iloc[latents["sprite"][:, 0]], latents)
    frame[list(BOX)] = (made.boxes[:, 0] / size).numpy()
    return Pool("latents", made.images, frame, made.fingerprint)


def _turned(size: int, limit: int | None) -> Pool:
    table = bank.load_table()
    rows = _spread(np.flatnonzero(table["tone"].isna() & table["category"].isin(UPRIGHT)), limit)
    latents = scenes.draw(TURNED_SEED, rows, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])
    quarters = (scenes.uniforms(TURNED_SEED + 100, rows, 1) * 4).astype(np.int64)
    latents["rotation"] = (latents["rotation"] + quarters / 4).astype(np.float32)
    made = rendered("turned", latents, size)
    frame = _table(table.iloc[rows], latents).assign(turn=[f"{quarter} quarters" for quarter in quarters[:, 0]])
    return Pool("turned", made.images, frame, made.fingerprint)


def _mirrored(size: int, limit: int | None) -> Pool:
    table = bank.load_table()
    rows = _spread(np.flatnonzero(table["facing"] == "left"), None if limit is None else max(1, limit // 2)).repeat(2)
    # The two scenes of a drawing have nothing else in common, or what is mirrored could be told by its background.
    latents = scenes.draw(
        MIRRORED_SEED, np.arange(len(rows)), scenes.OBJECTS, bank.background_count(), sprite=rows[:, None]
    )
    made = rendered("mirrored", latents, size)
    mirrored = torch.arange(len(rows)) % 2 == 1
    images = torch.where(mirrored[:, None, None, None], made.images.flip(3), made.images)
    frame = _table(table.iloc[rows], latents).assign(faces=np.where(mirrored.numpy(), "right", "left"))
    return Pool("mirrored", images, frame, made.fingerprint)


def _several(size: int, limit: int | None) -> Pool:
    table = bank.load_table()
    index = np.arange(min(limit or SEVERAL_IMAGES, SEVERAL_IMAGES))
    split = concept_split(table["concept"])
    # A scene has a side of its own, and objects of that side's concepts only.
    sides = np.array(["train", "val", "test"])[np.searchsorted([0.6, 0.75], index / len(index), side="right")]
    parts = [
        scenes.draw(
            SEVERAL_SEED, index[sides == side], scenes.MULTIPLE, bank.background_count(),
            weights=np.where((split == side) & table["category"].notna(), _once(table), 0),
        )
        for side in ("train", "val", "test")
        if (sides == side).any()
    ]  # fmt: skip
    latents = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    made = rendered("several", latents, ENLARGED * size, masks=True)
    frame = _table(table.iloc[latents["sprite"][:, 0]], latents).assign(split=sides)
    sprites = torch.from_numpy(latents["sprite"])
    return Pool("several", made.images, frame, made.fingerprint, made.boxes, made.masks, sprites)


def _badged(size: int, limit: int | None, badge: float) -> Pool:
    table = bank.load_table()
    # In pre-training every digit was on a badge, so a keycap is an unseen concept no more; and it would be a second digit.
    rows = _spread(np.flatnonzero(table["subcategory"] != "keycap"), limit)
    latents = scenes.draw(OBJECTS_SEED, rows, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])
    latents = badged(latents, rows, badge, BADGED_SEED)
    made = rendered(BADGED, latents, size)
    shown = table.iloc[latents["sprite"][:, 1]]
    frame = _table(table.iloc[rows], latents).assign(
        digit=shown["name"].str.removeprefix("keycap ").to_numpy(), badge_vendor=shown["vendor"].to_numpy(),
        badge_x=latents["x"][:, 1], badge_y=latents["y"][:, 1], badge=badge,
    )  # fmt: skip
    return Pool(BADGED, made.images, frame, made.fingerprint, made.boxes, sprites=torch.from_numpy(latents["sprite"]))


POOLS = {
    "objects": _objects, "latents": _latents, "turned": _turned, "mirrored": _mirrored, "several": _several,
}  # fmt: skip


def _once(table: pd.DataFrame) -> np.ndarray:
    """Weights of the bank's rows that give each concept the same: tone variants would weigh people ten times."""
    return (1 / table.groupby("concept")["concept"].transform("size")).to_numpy()


def _spread(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of `rows`, evenly over them."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, limit).astype(int))]


def _table(rows: pd.DataFrame, latents: dict[str, np.ndarray]) -> pd.DataFrame:
    """The bank's labels, the latents of the scene and of its first object, and the split by concept."""
    values = {k: v[:, 0] if v.ndim == 2 else v for k, v in latents.items() if k != "sprite"}
    frame = pd.concat([rows.reset_index(drop=True), pd.DataFrame(values)], axis=1)
    # A photograph has no hue of its own.
    frame["background_hue"] = frame["background_hue"].where(frame["background_kind"] != scenes.PHOTO)
    return frame.assign(split=concept_split(frame["concept"]))
