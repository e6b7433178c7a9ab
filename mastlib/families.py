"""What a study's backbones are asked together: how invariant each one is to what, and what several are worth side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import pandas as pd
import torch
from torch import Tensor

from mastlib.changes import change
from mastlib.data.pools import Pool, load_pool, side_of
from mastlib.errors import check_int
from mastlib.evaluation.features import extract
from mastlib.evaluation.fusion import Fused
from mastlib.evaluation.invariance import headline, intrinsic, intrinsic_scenes, synthetic
from mastlib.evaluation.rows import COLUMNS, evaluate_backbone
from mastlib.evaluation.tasks import headline as of_metric
from mastlib.evaluation.whitening import Whitening
from mastlib.remembered import remembered
from mastlib.stats import Interval, crossed
from mastlib.study import Model, Study, tier_grid, tier_pools

CLEAN = 4096  # images that features are whitened by


def invariances(study: Study, images: int = 256, objects: int = 64, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """How alike features of an image and its changed version are, for each network: synthetic transforms and true changes.

    Columns: arm, seed, kind ("synthetic", "intrinsic"), group, transform, measure, value, n. `images` of the validation concepts
    are transformed, `objects` rendered anew; features are whitened by images of the concepts that probes are fitted on. `arms`:
    None for all. Raises InputError as `evaluation.invariance`. Source: Ericsson et al., BMVC 2022 (ssl-invariances).
    """
    check_int("images", images, 1)
    measure = partial(_invariances, images=images, objects=objects)
    return study.measured("invariances", measure, code=__name__, arms=arms, images=images, objects=objects)


def _invariances(model: Model, images: int, objects: int) -> pd.DataFrame:
    size = model.spec.image_size
    pool, pictures = load_pool("objects", size), _scenes(size, objects)
    encode = partial(extract, model.backbone())
    space = Whitening.of(encode(_of(pool, "train", CLEAN)))
    found = {
        "synthetic": headline(synthetic(encode, space, _of(pool, "val", images))),
        "intrinsic": intrinsic(encode, space, pictures),
    }
    return pd.concat([rows.drop(columns="subspace").assign(kind=kind) for kind, rows in found.items()])


_scenes = lru_cache(maxsize=1)(intrinsic_scenes)  # the same for every network


def by_group(found: pd.DataFrame, kind: str, measure: str = "cosine") -> pd.DataFrame:
    """`invariances` of one kind by group: arm, group, mean, low, high, n, as of all seeds and all changes like these."""
    rows = found[(found["kind"] == kind) & (found["measure"] == measure)]
    table = [
        (arm, group, *crossed(change(mine, {arm: 1.0}, ("transform",))))
        for group, mine in rows.groupby("group", sort=False)
        for arm in rows["arm"].unique()
    ]
    return pd.DataFrame(table, columns=["arm", "group", *Interval._fields])


def fusions(study: Study, arms: Sequence[str], twins: Sequence[str], tier: str) -> pd.DataFrame:
    """Scores of `arms` side by side ("fused"), and of the first one beside its `twins`, which is as wide ("wide").

    Rows (arm, seed, task, metric, value, low, high, n, protocol), a fusion for each seed that all of its arms have, each feature
    scaled by images of the concepts that probes are fitted on. Source: Ericsson et al. 2021 (ssl-invariances), and its control of
    width.
    """
    parts = []
    for name, chosen in (("fused", list(arms)), ("wide", [arms[0], *twins])):
        found = {(model.arm, model.seed): model for model in study.models(chosen)}
        for seed in dict.fromkeys(seed for _, seed in found):
            models = [found[arm, seed] for arm in chosen if (arm, seed) in found]
            if len(models) == len(chosen):
                rows = remembered(
                    "fusion",
                    [model.identity for model in models],
                    partial(_fusion, models, tier),
                    code=__name__,
                    tier=tier,
                )
                parts.append(rows.assign(arm=name, seed=seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "seed", *COLUMNS])


def _fusion(models: Sequence[Model], tier: str) -> pd.DataFrame:
    pools = tier_pools(tier, models[0].spec.image_size)
    fused = Fused([model.backbone() for model in models], _of(pools["objects"], "train", CLEAN)).eval()
    return of_metric(evaluate_backbone(fused, pools, None, tier_grid(tier)))


def _of(pool: Pool, side: str, count: int) -> Tensor:
    return pool.images[torch.from_numpy(side_of(pool, side, count))]
