"""What is asked of networks beside the standard tasks: colours, neighbours, layers, projectors, scenes of several objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.augment.colour import ColorJitter
from mastlib.augment.presets import get_pipeline, standard5
from mastlib.changes import Nothing, change, over
from mastlib.data.pools import Pool, load_pool, side_of
from mastlib.errors import check_int
from mastlib.evaluation.conditioning import agreement
from mastlib.evaluation.features import extract
from mastlib.evaluation.information import BATCH, colour_histograms, information
from mastlib.evaluation.layers import layer_sensitivity
from mastlib.evaluation.retrieval import NEIGHBOURS, colour_distance, neighbours, precision_at
from mastlib.evaluation.rows import evaluate_backbone
from mastlib.spec import RunSpec
from mastlib.stats import Interval, crossed
from mastlib.study import RANDOM, Model, Study, tier_grid, tier_pools
from mastlib.tiers import TIERS

HUE, COLOURS = "hue precision", "colour distance"
PROJECTOR, PIXELS = "projector", "input"  # what `evaluation.layers` calls what is behind features, and before them
_pool = lru_cache(maxsize=2)(load_pool)  # read once for all networks


def jitter_strength(spec: RunSpec) -> float:
    """How strong the colour jitter of a run is, in widths of that of `standard5`; 0 without."""
    size = spec.image_size
    (usual,) = (op for op in standard5(size) if isinstance(op, ColorJitter))
    own = [op for op in get_pipeline(spec.augmentations, size, spec.without).ops if isinstance(op, ColorJitter)]
    return float(own[0].widths[0] / usual.widths[0]) if own else 0.0


def objects(size: int, limit: int | None) -> tuple[Tensor, pd.DataFrame]:
    """Drawings of test concepts of the pool "objects" in their usual tone, `(M, 3, S, S)`, and their table with index 0, 1, ..."""
    pool = _pool("objects", size, limit)
    rows = np.flatnonzero((pool.table["split"] == "test") & pool.table["tone"].isna())
    return pool.images[torch.from_numpy(rows)], pool.table.iloc[rows].reset_index(drop=True)


# --- One network each, with COLUMNS ---


def neighbours_of(model: Model, size: int, limit: int | None) -> pd.DataFrame:
    """Whether neighbours among `objects` have an image's hue, and how far their colours are."""
    images, table = objects(size, limit)
    features = extract(model.backbone(), images)
    found = {
        HUE: precision_at(features, table["hue"]),
        COLOURS: colour_distance(features, colour_histograms(images)),
    }
    rows = [(name, one.value, one.chance, one.n) for name, one in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS[neighbours_of])


def nearest_of(model: Model, size: int, limit: int | None, queries: Sequence[int]) -> pd.DataFrame:
    """The nearest `objects` to those of rows `queries`, rank 0 the nearest."""
    images, _ = objects(size, limit)
    found = neighbours(extract(model.backbone(), images))
    rows = [(query, rank, int(image)) for query in queries for rank, image in enumerate(found[query])]
    return pd.DataFrame(rows, columns=COLUMNS[nearest_of])


def information_of(model: Model, size: int, images: int) -> pd.DataFrame:
    """The bound on what features tell of colours, from `images` drawings, in nats."""
    pool = _pool("objects", size, images)
    split = pool.table["split"].to_numpy()
    batch = min(BATCH, *pool.table["split"].value_counts())
    found = information(extract(model.backbone(), pool.images), colour_histograms(pool.images), split, batch)
    return pd.DataFrame([(found.nats, found.ceiling, found.n)], columns=COLUMNS[information_of])


def told_of(model: Model, size: int, images: int) -> pd.DataFrame:
    """How alike two views' embeddings are, by what a CASSLE projector is `told`: mean cosines."""
    assert model.run is not None
    found = agreement(model.run, asked(size, images))
    return pd.DataFrame(found.items(), columns=COLUMNS[told_of])


def layers_of(model: Model, size: int, images: int, strengths: Sequence[float]) -> pd.DataFrame:
    """InfoNCE between clean and changed images over its floor, in nats.

    The floor of a layer is what images have that are not changed at all; `told` as `evaluation.layers`, the floor's "right" or "".
    """
    assert model.run is not None
    pictures = asked(size, images)
    rows = layer_sensitivity(model.run, pictures, strengths=strengths, batch=min(len(pictures), 256))
    rows = rows[rows["metric"] == "infonce"]
    floor = rows[rows["augmentation"] == "none"].set_index("layer")["value"]
    found = rows[rows["augmentation"] != "none"]
    found = found.assign(value=found["value"] - found["layer"].map(floor))
    return found[[*COLUMNS[layers_of]]]


def scenes_of(model: Model, tier: str, size: int, tasks: Sequence[str]) -> pd.DataFrame:
    """Scores on tasks that are no standard ones, all metrics."""
    return evaluate_backbone(model.backbone(), tier_pools(tier, size, tasks), tasks, tier_grid(tier))


def asked(size: int, images: int) -> Tensor:
    """At most `images` drawings of validation concepts, spread over them."""
    pool: Pool = _pool("objects", size, None)
    return pool.images[torch.from_numpy(side_of(pool, "val", images))]


#: The columns of each measurement.
COLUMNS: Mapping[Callable[..., pd.DataFrame], tuple[str, ...]] = MappingProxyType(
    {
        neighbours_of: ("measure", "value", "chance", "n"), nearest_of: ("query", "rank", "image"),
        information_of: ("value", "ceiling", "n"), told_of: ("told", "value"),
        layers_of: ("layer", "augmentation", "strength", "told", "value"),
        scenes_of: ("task", "metric", "value", "low", "high", "n", "protocol"),
    }
)  # fmt: skip

# --- All networks of a study ---


def _measured(
    study: Study, measure: Callable[..., pd.DataFrame], arms: Sequence[str] | None = None, **settings: Any
) -> pd.DataFrame:
    """`Study.measured` of one of the functions above, with `settings` as its arguments; its columns also where no run is left."""
    given = {"size": next(iter(study.runs.values())).spec.image_size, **settings}
    found = study.measured(measure.__name__, partial(measure, **given), code=__name__, arms=arms, **given)
    return found if len(found) else found.reindex(columns=["arm", "seed", *COLUMNS[measure]])


def colours_of_neighbours(study: Study, tier: str) -> pd.DataFrame:
    """`neighbours_of` every network: arm, seed, measure, value, chance, n."""
    return _measured(study, neighbours_of, limit=TIERS[tier].pools.get("objects"))


def retrieved(
    study: Study, arms: Sequence[str], tier: str, queries: int
) -> tuple[Tensor, list[int], dict[str, Tensor], pd.Series]:
    """What `plots.retrieval_panel` shows of the first seed of `arms`: images, rows of queries, neighbours by arm, hues.

    Queries are drawings that have a hue, spread over the table and chosen before anything is looked at.
    """
    limit, size = TIERS[tier].pools.get("objects"), next(iter(study.runs.values())).spec.image_size
    images, table = objects(size, limit)
    known = np.flatnonzero(table["hue"].notna())
    check_int("queries", queries, 1, len(known))
    chosen = [int(row) for row in known[np.linspace(0, len(known) - 1, queries + 2).astype(int)[1:-1]]]
    found = _measured(first_seed(study), nearest_of, arms, limit=limit, queries=chosen)
    nearest = {}
    for arm, rows in found.groupby("arm", sort=False):
        nearest[str(arm)] = torch.zeros(len(images), NEIGHBOURS, dtype=torch.long)
        for query, mine in rows.groupby("query"):
            nearest[str(arm)][int(str(query))] = torch.tensor(mine.sort_values("rank")["image"].to_numpy())
    return images, chosen, nearest, table["hue"]


def colour_information(study: Study, arms: Sequence[str], tier: str, images: int) -> pd.DataFrame:
    """`information_of` networks of `arms`, and of random weights: arm, seed, strength (`jitter_strength`), value, ceiling, n.

    Random weights have one value, which is repeated at every strength. There are at most `images`, and no more than `tier` has.
    """
    images = min(images, TIERS[tier].pools.get("objects", images))
    found = _measured(study, information_of, [*arms, RANDOM], images=images)
    of_arm = {arm: jitter_strength(run.spec) for (arm, _), run in study.runs.items() if arm in arms}
    trained = found[found["arm"] != RANDOM]
    trained = trained.assign(strength=trained["arm"].map(of_arm))
    parts = [found[found["arm"] == RANDOM].assign(strength=one) for one in sorted(set(of_arm.values()))]
    return pd.concat([trained, *parts], ignore_index=True)


def told_right_or_wrong(study: Study, images: int) -> pd.DataFrame:
    """`told_of` every network that has a CASSLE projector: arm, seed, told, value."""
    arms = dict.fromkeys(arm for (arm, _), run in study.runs.items() if run.spec.awareness == "cassle")
    return _measured(study, told_of, list(arms), images=images)


def by_layer(study: Study, arms: Sequence[str], images: int, strengths: Sequence[float]) -> pd.DataFrame:
    """`layers_of` networks of `arms`: arm, seed, layer, augmentation, strength, told, value."""
    found = _measured(study, layers_of, arms, images=images, strengths=list(strengths))
    return found.assign(told=found["told"].fillna(""))


def several_objects(study: Study, arms: Sequence[str], tier: str, tasks: Sequence[str]) -> pd.DataFrame:
    """`scenes_of` the first seed of `arms`: arm, seed, task, metric, value, low, high, n, protocol."""
    return _measured(first_seed(study), scenes_of, arms if tasks else [], tier=tier, tasks=list(tasks))


def first_seed(study: Study) -> Study:
    """The study of its first seed alone."""
    first = next(seed for _, seed in study.runs)
    rows = study.every_metric[study.every_metric["seed"] == first]
    return dataclasses.replace(
        study, runs={key: run for key, run in study.runs.items() if key[1] == first}, every_metric=rows
    )


# --- Comparisons ---


def there(rows: pd.DataFrame, comparisons: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Those of `comparisons` (name -> arms a, b) whose two arms share a seed: a run that diverged takes its own away alone."""
    seeds = rows.groupby("arm")["seed"].agg(set).to_dict()
    return {name: (a, b) for name, (a, b) in comparisons.items() if seeds.get(a, set()) & seeds.get(b, set())}


def over_hosts(rows: pd.DataFrame, comparisons: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """For each task what arm a has over arm b, as of all seeds and all hosts like these: task, comparison, mean, low, high, n.

    rows: arm, seed, host, task, value (`ledger.compared.hosts`).
    """
    table = []
    for name, pair in comparisons.items():
        for task, mine in rows.groupby("task", sort=False):
            try:
                table.append((task, name, *crossed(change(mine, over(*pair), ("host",)))))
            except Nothing:  # no host has both
                continue
    return pd.DataFrame(table, columns=["task", "comparison", *Interval._fields])


# --- In words ---


def spelled(mean: float, low: float, high: float, scale: float = 100.0, digits: int = 1) -> str:
    """A change times `scale` with its interval, "+1.2 [+0.3, +2.1]"; without where there is none, as of one seed."""
    bounds = "" if np.isnan([low, high]).any() else f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
    return f"{scale * mean:+.{digits}f}{bounds}"


def says(low: float, high: float) -> str:
    """What an interval allows to say."""
    return "raises" if low > 0 else "lowers" if high < 0 else "does not measurably change"


def deciding(row: pd.Series) -> str:
    """What decides a claim, a row of `ledger.claims.answers`, in words."""
    if np.isnan(row["effect"]):
        return str(row["what"])
    points = row["unit"] == "score"
    found = spelled(row["effect"], row["low"], row["high"], 100.0 if points else 1.0, 1 if points else 2)
    return f"{row['what']}: {found} {'points' if points else row['unit']}"
