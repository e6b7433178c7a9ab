"""What a task lives on: how its score changes when a random backbone is made perfectly invariant by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.data.pools import Pool
from mastlib.evaluation.baselines import FlipAveraged, GreyOnly, TurnAveraged
from mastlib.evaluation.features import extract
from mastlib.evaluation.protocols import headline_score
from mastlib.evaluation.tasks import get_task, list_tasks
from mastlib.remembered import known, remembered
from mastlib.spec import RunSpec
from mastlib.stats import paired_difference
from mastlib.transfer import backbone_of
from mastlib.workers import spread

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
    asked = list_tasks() if tasks is None else tasks
    make, found = [], []
    for seed in seeds:
        for pool in pools.values():
            mine = [name for name in asked if get_task(name).pool == pool.name]
            model = [spec.backbone, spec.width, spec.stem, seed, pool.fingerprint]
            told: dict[str, Any] = {"code": __name__, "tasks": mine, "grid": list(grid)}
            make.append(
                partial(remembered, "cues_of_tasks", model, partial(_scores, spec, seed, pool, mine, grid), **told)
            )
            found.append(known("cues_of_tasks", model, **told))
    spread([one for one, there in zip(make, found, strict=True) if not there], "cues of tasks")
    table = pd.concat([one() for one in make]).fillna({"cue": ""})
    scores = {
        key: dict(zip(mine["seed"], mine["value"], strict=True))
        for key, mine in table.groupby(["task", "cue"], sort=False)
    }
    rows = [
        {
            "task": task, "cue": cue, "base": pd.Series(scores[task, ""]).mean(),
            **paired_difference(values, scores[task, ""])._asdict(),
        }
        for (task, cue), values in scores.items()
        if cue
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _scores(spec: RunSpec, seed: int, pool: Pool, tasks: Sequence[str], grid: Sequence[float]) -> pd.DataFrame:
    """Rows (seed, task, cue, value) of the random backbone of `seed` on the tasks of `pool`; cue "": as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = backbone_of(spec)
    features = cue_features(backbone, pool.images)
    rows = [
        (seed, name, cue, headline_score(get_task(name), x, pool, grid).found.mean)
        for name in tasks
        for cue, x in features.items()
    ]
    return pd.DataFrame(rows, columns=["seed", "task", "cue", "value"])
