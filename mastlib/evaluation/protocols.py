"""How a kind of task is scored on frozen features, and what needs no features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.data.pools import Pool
from mastlib.errors import InputError
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.fewshot import draw_episodes, few_shot
from mastlib.evaluation.information import BATCH, colour_histograms, information
from mastlib.evaluation.probes import judge, logistic_probe, majority_accuracy, mean_ap, multilabel_probe
from mastlib.evaluation.regression import KERNEL_IMAGES, RidgeResult, kernel_probe, overlap, ridge_probe
from mastlib.evaluation.retrieval import NEIGHBOURS, colour_distance, cross_vendor_recall, precision_at
from mastlib.evaluation.tasks import (
    CLASSIFICATION,
    FEW_SHOT,
    INFORMATION,
    LOCALISATION,
    MULTILABEL,
    REGRESSION,
    RETRIEVAL,
    Task,
    get_task,
    list_tasks,
    task_classes,
    task_contents,
    task_split,
    task_targets,
)  # fmt: skip
from mastlib.stats import Interval, jackknife

WAYS, QUERIES, EPISODES = 5, 16, 2000  # few-shot problems: AugSelf's


class Score(NamedTuple):
    """A metric of a task: its value with the 95% interval that these test images give, from n of them, and how it was found."""

    metric: str
    found: Interval
    protocol: str


class _Logistic(NamedTuple):
    """How logistic probes are fitted."""

    grid: Sequence[float]
    standardise: bool

    def __str__(self) -> str:
        count = f"{len(self.grid)} of {len(L2_GRID)}" if set(self.grid) <= set(L2_GRID) else f"{len(self.grid)}"
        return f"L2 by validation ({count} weights), {'standardised' if self.standardise else 'raw'}"


def score(task: Task, features: Tensor, pool: Pool, grid: Sequence[float], standardise: bool = True) -> Iterator[Score]:
    """What features `(M, D)` of the pool's images come to, metric by metric.

    `grid`: penalties of logistic probes; `standardise`: whether those see standardised features (`probes.logistic_probe`).

    Intervals are `stats.jackknife`'s by concept, but those of episodes, which AugSelf's protocol has a formula for, and of
    information, which is one number for a batch: none. Raises InputError where the pool cannot serve the task.
    """
    return _SCORED[task.kind](task, features, pool, _Logistic(grid, standardise))


def headline_score(task: Task, features: Tensor, pool: Pool, grid: Sequence[float]) -> Score:
    """`score` of the metric that the task is known by; nothing else is fitted."""
    return next(found for found in score(task, features, pool, grid) if found.metric == task.metric)


def _concepts(pool: Pool, rows: np.ndarray) -> np.ndarray:
    """What pictures are of, where it is known; else each is of something of its own."""
    return pool.table["concept"].to_numpy()[rows] if "concept" in pool.table else rows


def _classification(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    probe = logistic_probe(
        features, task_classes(task, pool), task_split(task, pool), logistic.grid, task.metric, logistic.standardise
    )
    groups = _concepts(pool, probe.rows)
    for metric in ("accuracy", "mean_recall"):
        found = jackknife(lambda kept, m=metric: judge(probe.predicted[kept], probe.truth[kept])[m], groups)  # type: ignore[misc]
        yield Score(metric, found, f"logistic, {logistic}")


def _multilabel(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    probe = multilabel_probe(features, task_contents(task, pool), task_split(task, pool), *logistic)
    found = jackknife(lambda kept: mean_ap(probe.scores[kept], probe.truth[kept]), probe.rows)
    yield Score("mean_ap", found, f"logistic for each label, {logistic}")


def _regression(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    targets, split = task_targets(task, pool), task_split(task, pool)
    ridge = ridge_probe(features, targets, split)
    yield Score("r2", _r2(ridge, pool), f"ridge, alpha by validation ({len(L2_GRID)} weights), standardised")
    kernel = kernel_probe(features, targets, split)
    yield Score(
        "r2_kernel", _r2(kernel, pool), f"RBF kernel ridge on {KERNEL_IMAGES} images, by validation, standardised"
    )


def _r2(result: RidgeResult, pool: Pool) -> Interval:
    """The mean R^2 over outputs, from sums over images, which are quick to leave some out of."""
    missed, spread = (result.truth - result.predicted) ** 2, (result.truth - result.mean) ** 2
    groups = _concepts(pool, result.rows)
    return jackknife(lambda kept: float((1 - missed[kept].sum(0) / spread[kept].sum(0)).mean()), groups)


def _localisation(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    ridge = ridge_probe(features, task_targets(task, pool), task_split(task, pool))
    groups = _concepts(pool, ridge.rows)
    how = f"ridge to the box, alpha by validation ({len(L2_GRID)} weights), standardised"
    shared, squares = overlap(ridge.predicted, ridge.truth), ((ridge.predicted - ridge.truth) ** 2).mean(axis=1)
    for metric, each in (("iou", shared), ("mse", squares)):
        yield Score(metric, jackknife(lambda kept, each=each: float(each[kept].mean()), groups), how)  # type: ignore[misc]


def _few_shot(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    labels = task_classes(task, pool)
    labels[task_split(task, pool) != "test"] = None
    for shots in task.shots:
        found = few_shot(features, draw_episodes(labels, WAYS, shots, QUERIES, EPISODES))
        yield Score(
            f"accuracy_{shots}", Interval(found.accuracy, found.low, found.high, EPISODES),
            f"{EPISODES} episodes, {WAYS}-way {shots}-shot, {QUERIES} questions, logistic one-vs-rest, C = 1",
        )  # fmt: skip


def _retrieval(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    rows = np.flatnonzero(task_split(task, pool) == "test")
    keys, vendors = task_classes(task, pool)[rows], pool.table["vendor"].to_numpy()[rows]
    tested, images = features[torch.from_numpy(rows)], pool.images[torch.from_numpy(rows)]
    between = cross_vendor_recall(tested, keys, vendors).each
    hits, pairs = between["hit"].to_numpy(dtype=float), between["pair"].to_numpy()

    def recall(kept: np.ndarray) -> float:
        counts = np.bincount(pairs[kept])
        return float((np.bincount(pairs[kept], hits[kept])[counts > 0] / counts[counts > 0]).mean())

    found = jackknife(recall, keys[between["row"].to_numpy()])
    yield Score("recall_at_1", found, "nearest neighbour between vendors, cosine of centred features")
    for metric, near in (
        (f"precision_at_{NEIGHBOURS}", precision_at(tested, keys)),
        ("colour_distance", colour_distance(tested, colour_histograms(images))),
    ):
        yield Score(metric, _mean(near.each, keys), f"{NEIGHBOURS} nearest of all, cosine of centred features")


def _information(task: Task, features: Tensor, pool: Pool, logistic: _Logistic) -> Iterator[Score]:
    split = task_split(task, pool)
    least = min(int((split == side).sum()) for side in ("train", "val", "test"))
    found = information(features, colour_histograms(pool.images), split, min(BATCH, least))
    yield Score(
        "nats", Interval(found.nats, float("nan"), float("nan"), found.n), f"InfoNCE bound, at most {found.ceiling:.2f}"
    )


_SCORED: Mapping[str, Callable[[Task, Tensor, Pool, _Logistic], Iterator[Score]]] = MappingProxyType(
    {
        CLASSIFICATION: _classification, MULTILABEL: _multilabel, REGRESSION: _regression, LOCALISATION: _localisation,
        FEW_SHOT: _few_shot, RETRIEVAL: _retrieval, INFORMATION: _information,
    }
)  # fmt: skip


def without_features(task: Task, pool: Pool) -> float:
    """What needs no features, in the task's metric.

    The most frequent class of train+val; for a mean over classes, one over the test split's; for R^2 0 (the mean); for boxes the
    mean box; for episodes one over the ways; for retrieval a random neighbour; for several labels random scores; for what is
    detected, and for information, 0. Raises InputError where nothing is left to test on.
    """
    split = task_split(task, pool)
    if task.kind == FEW_SHOT:
        return 1 / WAYS
    if task.kind == MULTILABEL:
        shares = task_contents(task, pool)[split == "test"].mean()
        return float(shares[(shares > 0) & (shares < 1)].mean())
    if task.kind == LOCALISATION:
        boxes = task_targets(task, pool)
        fitted, held_out = boxes[np.isin(split.astype(str), ("train", "val"))], boxes[split == "test"]
        return float(overlap(fitted.mean(axis=0)[None].repeat(len(held_out), axis=0), held_out).mean())
    if task.kind not in (CLASSIFICATION, RETRIEVAL):
        return 0.0
    labels = task_classes(task, pool)
    tested = (split == "test") & ~pd.isna(labels)
    if not tested.any():
        raise InputError(f"task {task.name}: split test has no labelled image")
    if task.kind == RETRIEVAL:
        vendors = pool.table["vendor"].to_numpy()[tested]
        return cross_vendor_recall(torch.zeros(int(tested.sum()), 1), labels[tested], vendors).chance
    if task.metric == "mean_recall":
        return 1 / len(set(labels[tested]))
    fitted = np.isin(split.astype(str), ("train", "val")) & ~pd.isna(labels)
    return majority_accuracy(labels[fitted].astype(str), labels[tested].astype(str))


def describe_tasks(pools: Mapping[str, Pool]) -> pd.DataFrame:
    """A row per standard task: what it is, images per split, what needs no features, what it lives on. `pools`: all of them."""
    rows = []
    for task in map(get_task, list_tasks()):
        pool = pools[task.pool]
        split = task_split(task, pool)
        if task.kind in (REGRESSION, LOCALISATION):
            targets = task_targets(task, pool)
            known, classes = ~np.isnan(targets).any(axis=1), targets.shape[1]
        elif task.kind == MULTILABEL:
            known, classes = np.ones(len(split), dtype=bool), task_contents(task, pool).shape[1]
        else:
            labels = task_classes(task, pool)
            known = ~pd.isna(labels)
            if task.kind in (FEW_SHOT, RETRIEVAL):
                known &= split == "test"
            classes = len(set(labels[known & ~pd.isna(split)]))
        rows.append(
            {
                "task": task.name, "question": task.doc, "kind": task.kind.replace("_", " "),
                "metric": task.metric.replace("_", " "), "classes or outputs": classes,
                **{side: int((known & (split == side)).sum()) for side in ("train", "val", "test")},
                "without features": without_features(task, pool), "lives on": ", ".join(task.sensitive_to) or "-",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("task").round({"without features": 3})


def _mean(each: pd.Series, keys: np.ndarray) -> Interval:
    """The mean of what queries found, by the row of their image."""
    values = each.to_numpy(dtype=float)
    return jackknife(lambda kept: float(values[kept].mean()), keys[each.index.to_numpy()])
