"""What a task lives on: how its score changes when a random backbone is made perfectly invariant by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.data.pools import Pool
from mastlib.evaluate.features import extract
from mastlib.evaluate.tasks import evaluate_features, get_task, list_tasks
from mastlib.spec import RunSpec
from mastlib.stats import paired_difference
from mastlib.transfer import backbone_of

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the grey that the augmentations use


def grey(images: Tensor) -> Tensor:
    """Images `(N, 3, H, W)` uint8 without colour: luma on all three channels."""
    luma = sum(weight * images[:, c].float() for c, weight in enumerate(LUMA))
    return torch.as_tensor(luma).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def original(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def _turned(quarters: int) -> Callable[[Tensor], Tensor]:
    return lambda images: images.rot90(quarters, (2, 3))


#: Cue -> versions of the images whose features are averaged; the average is exactly invariant to the cue.
CUES: Mapping[str, Sequence[Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "colour": (grey,),
        "mirror": (original, lambda images: images.flip(3)),
        "orientation": (original, *(_turned(quarters) for quarters in (1, 2, 3))),
    }
)


def cue_features(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Features `(N, D)` of `images` `(N, 3, H, W)` uint8 by cue, averaged over the versions that differ in it; "": as they are."""
    versions = {version for cue in CUES.values() for version in cue} | {original}
    of = {version: extract(backbone, version(images).contiguous()) for version in versions}
    return {"": of[original]} | {cue: torch.stack([of[v] for v in made]).mean(dim=0) for cue, made in CUES.items()}


def sensitivity(
    spec: RunSpec,
    seeds: Sequence[int],
    pools: Mapping[str, Pool],
    grid: Sequence[float],
    tasks: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A row per (task, cue): `base` score of random backbones of `spec`, and the change's `mean`, `low`, `high`, `n`.

    The change is paired by seed: same weights, same probe, with the cue and without it.
    """
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = backbone_of(spec)
        for pool in pools.values():
            features = cue_features(backbone, pool.images)
            for name in list_tasks() if tasks is None else tasks:
                if get_task(name).pool == pool.name:
                    for cue, x in features.items():
                        value = evaluate_features(get_task(name), x, pool, grid)["value"].item()
                        scores.setdefault((name, cue), {})[seed] = value
    rows = [
        {
            "task": task, "cue": cue, "base": pd.Series(scores[task, ""]).mean(),
            **paired_difference(values, scores[task, ""])._asdict(),
        }
        for (task, cue), values in scores.items()
        if cue
    ]  # fmt: skip
    return pd.DataFrame(rows)
