"""Pre-rendered image sets: what methods are trained on, and the pools that frozen features are evaluated on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.closure import closure_hash
from mastlib.data import bank, scenes
from mastlib.data.splits import concept_split, pretraining_weights
from mastlib.errors import check_choice, check_int
from mastlib.files import atomic, outputs_dir
from mastlib.progress import bar

PRETRAIN_SEED, OBJECTS_SEED, LATENTS_SEED = 1, 2, 3  # scenes of different sets never coincide
LATENTS_IMAGES = 6144  # scenes of the "latents" pool, unless a tier asks for fewer
CHUNK = 512  # scenes rendered at once


@dataclass(frozen=True)
class Pool:
    """Images to evaluate frozen features on: images `(M, 3, S, S)` uint8 and a table of M rows (the bank's labels, the
    scene's latents, and `split`: train, val or test, by concept)."""

    name: str
    images: Tensor
    table: pd.DataFrame
    fingerprint: str


def _rendered(name: str, latents: dict[str, np.ndarray], size: int, key: dict[str, object]) -> tuple[Tensor, str]:
    """The scenes' images `(N, 3, S, S)` uint8, memory-mapped from the cache, rendered into it first where absent."""
    key = {**key, "size": size, "bank": bank.fingerprint(), "code": closure_hash("mastlib.data.pools")}
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = outputs_dir() / "cache" / f"{name}-{size}px-{fingerprint}.npy"
    total = len(latents["sprite"])
    if not path.is_file():
        render = scenes.Renderer(bank.load_bank().images, bank.load_backgrounds(), size)
        with atomic(path) as temporary, open(temporary, "wb") as handle:
            header = {"descr": "|u1", "fortran_order": False, "shape": (total, 3, size, size)}
            np.lib.format.write_array_header_1_0(handle, header)
            with bar(total, f"rendering {name} {size} px") as shown:
                for start in range(0, total, CHUNK):
                    part = {k: v[start : start + CHUNK] for k, v in latents.items()}
                    rendered = render(part).images.numpy()
                    handle.write(rendered.tobytes())
                    shown.update(len(rendered))
    # Copy-on-write: torch asks for a writable array, and the file must stay as it is.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), fingerprint


def pretraining_images(data: str, count: int, size: int) -> Tensor:
    """`count` scenes to pre-train on, `(count, 3, size, size)` uint8, memory-mapped, the same for every run.

    `data` names the source ("openemoji"); only training concepts appear (see `splits.pretraining_weights`).
    """
    key: dict[str, object] = {"seed": PRETRAIN_SEED, "count": count, "ranges": asdict(scenes.OBJECTS)}
    return _rendered("pretrain", _pretraining_latents(data, count), size, key)[0]


def pretraining_labels(data: str, count: int) -> tuple[Tensor, list[str]]:
    """The category of each of `pretraining_images`' objects, `(count,)` long, -1 where it has none, and the names."""
    sprites = _pretraining_latents(data, count)["sprite"][:, 0]
    categories = bank.load_table()["category"].astype("category").cat
    return torch.from_numpy(categories.codes.to_numpy()[sprites].astype(np.int64)), list(categories.categories)


def _pretraining_latents(data: str, count: int) -> dict[str, np.ndarray]:
    check_choice("data", data, ("openemoji",))
    check_int("images", count, 1)
    weights = pretraining_weights(bank.load_table())
    return scenes.draw(PRETRAIN_SEED, np.arange(count), scenes.OBJECTS, bank.background_count(), weights=weights)


def load_pool(name: str, size: int, limit: int | None = None) -> Pool:
    """The pool `name` at `size` px: "objects" (every bank image once, labels intact) or "latents" (every latent varies).

    `limit`: at most that many images, spread evenly over the pool's order (None: all). Raises InputError.
    """
    check_choice("pool", name, ("objects", "latents"))
    table = bank.load_table()
    if name == "objects":
        seed, ranges, rows = OBJECTS_SEED, scenes.OBJECTS, np.arange(len(table))
        if limit is not None and limit < len(rows):
            rows = np.unique(np.linspace(0, len(rows) - 1, check_int("limit", limit, 1)).astype(int))
        latents = scenes.draw(seed, rows, ranges, bank.background_count(), sprite=rows[:, None])
    else:
        count = LATENTS_IMAGES if limit is None else min(check_int("limit", limit, 1), LATENTS_IMAGES)
        seed, ranges = LATENTS_SEED, scenes.LATENTS
        # One drawing per concept and vendor at most: tone variants would weigh people ten times.
        weights = (1 / table.groupby("concept")["concept"].transform("size")).to_numpy()
        latents = scenes.draw(seed, np.arange(count), ranges, bank.background_count(), weights=weights)
        rows = latents["sprite"][:, 0]
    key: dict[str, object] = {"seed": seed, "limit": limit, "ranges": asdict(ranges)}
    images, fingerprint = _rendered(name, latents, size, key)
    rows_table = table.iloc[rows].reset_index(drop=True)
    values = {k: v[:, 0] if v.ndim == 2 else v for k, v in latents.items() if k != "sprite"}
    frame = pd.concat([rows_table, pd.DataFrame(values)], axis=1)
    frame["split"] = concept_split(frame["concept"])
    return Pool(name, images, frame, fingerprint)
