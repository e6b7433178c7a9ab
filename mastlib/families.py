"""What a study's backbones are asked together: how invariant each one is to what, and what several are worth side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.changes import change
from mastlib.data.pools import Pool, load_pool, side_of
from mastlib.errors import check_int
from mastlib.evaluation.features import extract
from mastlib.evaluation.fusion import Fused
from mastlib.evaluation.invariance import headline, intrinsic, intrinsic_scenes, synthetic
from mastlib.evaluation.rows import evaluate_backbone, load_backbone
from mastlib.evaluation.tasks import headline as of_metric
from mastlib.evaluation.whitening import Whitening
from mastlib.spec import RunSpec
from mastlib.stats import Interval, crossed
from mastlib.study import RANDOM, Study, tier_grid, tier_pools, untrained

CLEAN = 4096  # images that features are whitened by


def backbones(study: Study) -> Iterator[tuple[str, int, nn.Module]]:
    """Each arm's backbone by seed, and those with random weights; runs that diverged are left out."""
    seeds: dict[int, RunSpec] = {}
    for (arm, seed), run in study.runs.items():
        seeds.setdefault(seed, run.spec)
        if run.info["status"] != "diverged":
            yield arm, seed, load_backbone(run)
    for seed, spec in seeds.items():
        yield RANDOM, seed, untrained(spec, seed).eval()


def invariances(study: Study, images: int = 256, objects: int = 64) -> pd.DataFrame:
    """How alike features of an image and its changed version are, for each backbone: synthetic transforms and true changes.

    Columns: arm, seed, kind ("synthetic", "intrinsic"), group, transform, measure, value, n. `images` of the validation concepts
    are transformed, `objects` rendered anew; features are whitened by images of the concepts that probes are fitted on.
    Raises InputError as `evaluation.invariance`. Source: Ericsson et al., BMVC 2022 (ssl-invariances).
    """
    check_int("images", images, 1)
    size = next(iter(study.runs.values())).spec.image_size
    pool = load_pool("objects", size)
    clean, asked, pictures = _of(pool, "train", CLEAN), _of(pool, "val", images), intrinsic_scenes(size, objects)
    parts = []
    for arm, seed, backbone in backbones(study):
        encode, space = partial(extract, backbone), Whitening.of(extract(backbone, clean))
        found = {
            "synthetic": headline(synthetic(encode, space, asked)),
            "intrinsic": intrinsic(encode, space, pictures),
        }
        parts += [rows.drop(columns="subspace").assign(arm=arm, seed=seed, kind=kind) for kind, rows in found.items()]
    return pd.concat(parts, ignore_index=True)


def by_group(found: pd.DataFrame, kind: str, measure: str = "cosine") -> pd.DataFrame:
    """`invariances` of one kind by group: arm, group, mean, low, high, n, as of all seeds and all changes like these."""
    rows = found[(found["kind"] == kind) & (found["measure"] == measure)]
    table = [
        (arm, group, *crossed(change(mine, {arm: 1.0}, ("transform",))))
        for group, mine in rows.groupby("group", sort=False)
        for arm in rows["arm"].unique()
    ]
    return pd.DataFrame(table, columns=["arm", "group", *Interval._fields])


def fusions(study: Study, arms: Sequence[str], tier: str) -> pd.DataFrame:
    """Scores of `arms` side by side ("fused"), and of as many seeds of the first one, which are as wide ("wide").

    Rows (arm, seed, task, metric, value, low, high, n, protocol), a fusion for each seed that all arms have, each feature scaled by
    images of the concepts that probes are fitted on. There is no "wide" where there are fewer seeds than arms.
    Source: Ericsson et al. 2021 (ssl-invariances), and its control of width.
    """
    found = {(arm, seed): backbone for arm, seed, backbone in backbones(study) if arm in arms}
    seeds = [seed for seed in dict.fromkeys(seed for _, seed in found) if all((arm, seed) in found for arm in arms)]
    spec = next(iter(study.runs.values())).spec
    pools, grid = tier_pools(tier, spec.image_size), tier_grid(tier)
    known = _of(pools["objects"], "train", CLEAN)
    parts = []
    for place, seed in enumerate(seeds):
        turned = [*seeds[place:], *seeds[:place]]
        sets = {"fused": [found[arm, seed] for arm in arms]}
        if len(seeds) >= len(arms):
            sets["wide"] = [found[arms[0], other] for other in turned[: len(arms)]]
        for name, chosen in sets.items():
            rows = of_metric(evaluate_backbone(Fused(chosen, known).eval(), pools, None, grid))
            parts.append(rows.assign(arm=name, seed=seed))
    return pd.concat(parts, ignore_index=True)


def _of(pool: Pool, side: str, count: int) -> Tensor:
    """At most `count` images of a side of the split by concept, spread over it."""
    return pool.images[torch.from_numpy(side_of(pool, side, count))]
