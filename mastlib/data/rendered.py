"""Scenes rendered once and kept: images, boxes and masks, memory-mapped from the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from mastlib.closure import closure_hash
from mastlib.data import bank, scenes
from mastlib.files import atomic, outputs_dir
from mastlib.progress import bar

CHUNK = 512  # scenes rendered at once


@dataclass(frozen=True)
class Rendered:
    """Scenes, memory-mapped: images `(N, 3, S, S)` uint8; boxes `(N, O, 4)` float (x0, y0, x1, y1) in pixels, zeros where an object
    is absent or hidden; masks `(N, O, S, ceil(S / 8))` uint8, bits of the visible pixels (`unpack`), where they were asked for;
    `fingerprint` of all of it."""

    images: Tensor
    boxes: Tensor
    masks: Tensor | None
    fingerprint: str


def rendered(name: str, latents: Mapping[str, np.ndarray], size: int, masks: bool = False) -> Rendered:
    """The scenes of `latents` (from `scenes.draw`) at `size` px, read from the cache or rendered into it first.

    `name` is part of the files' names, for people. Raises InputError where the cache cannot be written.
    """
    digest = hashlib.sha256()
    for key in sorted(latents):
        digest.update(f"{key} {latents[key].dtype} {latents[key].shape}".encode())
        digest.update(np.ascontiguousarray(latents[key]).tobytes())
    identity = [digest.hexdigest(), size, bank.fingerprint(), closure_hash("mastlib.data.rendered")]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    paths = {
        part: outputs_dir() / "cache" / f"{name}-{size}px-{fingerprint}{ending}.npy"
        for part, ending in (("images", ""), ("boxes", "-boxes"), ("masks", "-masks"))
        if masks or part != "masks"
    }
    if not all(path.is_file() for path in paths.values()):
        _render(name, latents, size, paths)
    # Copy-on-write: torch asks for a writable array, and the file must stay as it is.
    found = {part: torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)) for part, path in paths.items()}
    return Rendered(found["images"], found["boxes"], found.get("masks"), fingerprint)


def unpack(masks: Tensor, size: int) -> Tensor:
    """Masks `(..., S, S)` bool from their bits `(..., S, ceil(S / 8))`."""
    return torch.from_numpy(np.unpackbits(masks.numpy(), axis=-1, count=size)).bool()


def _render(name: str, latents: Mapping[str, np.ndarray], size: int, paths: Mapping[str, Path]) -> None:
    total, objects = latents["sprite"].shape
    shapes = {
        "images": ("|u1", (total, 3, size, size)),
        "boxes": ("<f4", (total, objects, 4)),
        "masks": ("|u1", (total, objects, size, -(-size // 8))),
    }
    render = scenes.Renderer(bank.load_bank().images, bank.load_backgrounds(), size)
    with ExitStack() as files, bar(total, f"rendering {name} {size} px") as shown:
        handles = {part: files.enter_context(_array(path, *shapes[part])) for part, path in paths.items()}
        for start in range(0, total, CHUNK):
            made = render({key: values[start : start + CHUNK] for key, values in latents.items()})
            handles["images"].write(made.images.numpy().tobytes())
            handles["boxes"].write(made.boxes.numpy().astype("<f4").tobytes())
            if "masks" in handles:
                handles["masks"].write(np.packbits(made.masks.numpy(), axis=-1).tobytes())
            shown.update(len(made.images))


@contextlib.contextmanager
def _array(path: Path, kind: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A file of an array of this type and shape, whose rows are written one after the other."""
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": kind, "fortran_order": False, "shape": shape})
        yield handle
