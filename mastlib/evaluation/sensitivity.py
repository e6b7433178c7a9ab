"""What a task lives on: how its score changes when a random backbone is made perfectly invariant by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.data.pools import Pool
from mastlib.evaluation.baselines import FlipAveraged, GreyOnly, TurnAveraged
from mastlib.evaluation.features import extract
from mastlib.evaluation.protocols import headline_score
from mastlib.evaluation.tasks import get_task, list_tasks
from mastlib.spec import RunSpec
from mastlib.stats import paired_difference
from mastlib.transfer import backbone_of

#: Cue -> what a backbone is put into to be exactly invariant to it.
CUES: Mapping[str, type[GreyOnly] | type[FlipAveraged] | type[TurnAveraged]] = MappingProxyType(
    {"colour": GreyOnly, "mirror": FlipAveraged, "orientation": TurnAveraged}
)


def cue_features(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Features `(N, D)` of `images` `(N, 3, H, W)` uint8 by cue, made invariant to it; "": as they are."""
    return {"": extract(backbone, images)} | {cue: extract(made(backbone), images) for cue, made in CUES.items()}


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
                        found = headline_score(get_task(name), x, pool, grid).found
                        scores.setdefault((name, cue), {})[seed] = found.mean
    rows = [
        {
            "task": task, "cue": cue, "base": pd.Series(scores[task, ""]).mean(),
            **paired_difference(values, scores[task, ""])._asdict(),
        }
        for (task, cue), values in scores.items()
        if cue
    ]  # fmt: skip
    return pd.DataFrame(rows)
