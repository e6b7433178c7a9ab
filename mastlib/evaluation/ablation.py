"""Which of a MAST run's subspaces a task lives in: probes on some dimensions alone, ranks, dimensions taken from a fitted probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.data.pools import Pool
from mastlib.errors import check_int, refuse
from mastlib.evaluation.design import CONSTANT, THIN_GRID
from mastlib.evaluation.features import extract
from mastlib.evaluation.masks import CHOSEN
from mastlib.evaluation.probes import logistic_probe
from mastlib.evaluation.protocols import headline_score, without_features
from mastlib.evaluation.regression import ridge_probe
from mastlib.evaluation.subspaces import BATCH, embeddings, trained_method
from mastlib.evaluation.tasks import CLASSIFICATION, REGRESSION, Task, task_classes, task_split, task_targets
from mastlib.evaluation.whitening import FULL
from mastlib.monitors import effective_rank
from mastlib.runs import Run

Score = Callable[[Tensor], Tensor]  # standardised features of the test images (n, D) -> a score of each (n,)


@torch.no_grad()
def masked_features(run: Run, images: Tensor) -> Tensor:
    """What the masks of a MAST run are of, `(M, D)` float32, for `images` `(M, 3, S, S)`: embeddings, or the backbone's features.

    Raises InputError for a run of another method.
    """
    if run.spec.awareness != "mast":
        raise refuse("run", run.id, "a run with awareness = 'mast'")
    method = trained_method(run)
    if run.spec.mask_on == "representation":
        return extract(method.backbone, images)
    encode = embeddings(method)
    return torch.cat([encode(part) for part in images.split(BATCH)])


def ablate(
    task: Task,
    features: Tensor,
    masks: Tensor,
    names: Sequence[str],
    pool: Pool,
    draws: int = 3,
    grid: Sequence[float] = THIN_GRID,
    seed: int = 0,
    without: bool = True,
) -> pd.DataFrame:
    """What `task` scores on the dimensions of one subspace alone, without them, and on as many random ones.

    features `(M, D)` of the pool's images (`masked_features`), masks `(K, D)` with a name each. Columns: task, space, draw,
    dimensions, metric, value, n (test images or queries). Spaces: "full space"; "only k", dimensions in subspace k, and
    "without k", all others, so that what k shares goes with it; "random as only k" and "random as without k", `draws` sets of as
    many dimensions drawn from all (draw 1, 2, ...; else 0). The value of no dimension at all is `protocols.without_features`.
    With `without` False a subspace is asked alone, which takes half the time.

    A dimension is in a subspace where its mask is at least CHOSEN, and is taken whole: weights m or 1 - m would change nothing,
    for the tasks' probes standardise, which undoes any weight above 0.
    Raises InputError for masks that do not fit, for negative `draws`, and where the pool cannot serve the task.
    """
    inside, orders = _inside(features, masks, names), _orders(features.shape[1], draws, seed)
    everything = headline_score(task, features, pool, grid).found
    full = everything.mean, everything.n
    known = {bytes(features.shape[1]): (without_features(task, pool), full[1])}  # without any dimension

    def scored(chosen: Tensor) -> tuple[float, int]:
        key = chosen.numpy().tobytes()
        if key not in known:
            found = headline_score(task, features[:, chosen], pool, grid).found
            known[key] = found.mean, found.n
        return known[key]

    rows = [(FULL, 0, features.shape[1], *full)]
    for name, chosen in inside.items():
        for space, kept in ((f"only {name}", chosen), (f"without {name}", ~chosen))[: 1 + without]:
            size = int(kept.sum())
            rows.append((space, 0, size, *scored(kept)))
            rows += [(f"random as {space}", r + 1, size, *scored(order < size)) for r, order in enumerate(orders)]
    table = pd.DataFrame(rows, columns=["space", "draw", "dimensions", "value", "n"])
    table.insert(0, "task", task.name)
    table.insert(4, "metric", task.metric)
    return table


def ranks(features: Tensor, masks: Tensor, names: Sequence[str]) -> pd.DataFrame:
    """Effective rank of centred `features` `(M, D)` in the full space and in each subspace: columns space, dimensions, rank.

    From 1 to the number of dimensions, NaN where there is none; see `monitors.effective_rank`. A subspace is as in `ablate`.
    Raises InputError for masks that do not fit.
    """
    spaces = {FULL: torch.ones(features.shape[1], dtype=torch.bool)} | _inside(features, masks, names)
    centred = features - features.mean(dim=0)
    rows = [
        (space, int(chosen.sum()), effective_rank(centred[:, chosen]) if chosen.any() else float("nan"))
        for space, chosen in spaces.items()
    ]
    return pd.DataFrame(rows, columns=["space", "dimensions", "rank"])


def importance(
    task: Task,
    features: Tensor,
    masks: Tensor,
    names: Sequence[str],
    pool: Pool,
    draws: int = 3,
    grid: Sequence[float] = THIN_GRID,
    seed: int = 0,
) -> pd.DataFrame:
    """What a probe that was fitted on all dimensions loses where a subspace's are set to their means: Captum's FeatureAblation.

    Columns: task, subspace, draw, dimensions, metric, score (of all dimensions), drop (that less the score without them; below
    0 where it rises), n test images. Metrics: the task's; and of a classification "margin", the true class's logit less the
    largest other, averaged over test images of fitted classes. Subspaces are as in `ablate`, and are ablated one at a time: a
    dimension that several share goes with each of them, so drops do not add up. "random as k": as many dimensions as k has,
    drawn as there.

    Where `ablate` asks what a probe could do without a subspace, this asks what one that had it made of it.
    Arguments and errors as `ablate`; InputError for a task of another kind, which has no such probe.
    Source: Captum (Kokhlikyan et al. 2020).
    """
    from captum.attr import FeatureAblation  # here: training imports no book package, and this one takes seconds

    inside, orders = _inside(features, masks, names), _orders(features.shape[1], draws, seed)
    held_out, scores = _fitted(task, features, pool, grid)
    rows = []
    for metric, score in scores.items():
        ablation, full = FeatureAblation(score), float(score(held_out).mean())
        for name, chosen in inside.items():
            size = int(chosen.sum())
            sets = [(name, 0, chosen)] + [(f"random as {name}", r + 1, order < size) for r, order in enumerate(orders)]
            for label, draw, gone in sets:
                drop = 0.0
                if size:  # the attribution of a group is the same in each of its dimensions
                    found = ablation.attribute(held_out, baselines=0.0, feature_mask=gone.long()[None])
                    drop = float(found[:, gone][:, 0].mean())
                rows.append((task.name, label, draw, size, metric, full, drop, len(held_out)))
    return pd.DataFrame(rows, columns=["task", "subspace", "draw", "dimensions", "metric", "score", "drop", "n"])


def _fitted(task: Task, features: Tensor, pool: Pool, grid: Sequence[float]) -> tuple[Tensor, dict[str, Score]]:
    """Standardised features `(n, D)` float64 of the test images, and scores whose means are what the task's fitted probe gets."""
    if task.kind not in (CLASSIFICATION, REGRESSION):
        raise refuse("task", task.name, "a classification or a regression")
    split = task_split(task, pool)
    labels = task_targets(task, pool) if task.kind == REGRESSION else task_classes(task, pool)
    known = ~(np.isnan(labels).any(axis=1) if task.kind == REGRESSION else pd.isna(labels))
    both, test = known & np.isin(split.astype(str), ("train", "val")), known & (split == "test")
    base = features[torch.from_numpy(both)].double()
    deviation = base.std(dim=0, correction=0)
    scale = torch.where(deviation > CONSTANT * base.mean(dim=0).abs(), deviation, torch.inf)
    train, held_out = ((features[torch.from_numpy(rows)].double() - base.mean(dim=0)) / scale for rows in (both, test))
    if task.kind == REGRESSION:
        alpha = ridge_probe(features, labels, split).alpha
        mean = labels[both].mean(axis=0)
        y, truth = (torch.from_numpy(labels[rows] - mean) for rows in (both, test))
        weights = torch.linalg.solve(train.T @ train + alpha * torch.eye(train.shape[1]).double(), train.T @ y)
        unit = truth.square().mean(dim=0)
        return held_out, {task.metric: lambda x: 1 - ((truth - x @ weights).square() / unit).mean(dim=1)}
    probe = logistic_probe(features, labels, split, grid, task.metric)
    coefficients = probe.coefficients.double()
    true = torch.from_numpy(labels[test].astype(str)[:, None] == np.array(probe.classes))
    shares = pd.Series(labels[test].astype(str))
    each = torch.ones(len(held_out)).double()
    if task.metric == "mean_recall":  # classes count alike
        counts = shares.map(shares.value_counts()).to_numpy()
        each = torch.from_numpy(len(shares) / (counts * shares.nunique()))

    def logits(x: Tensor) -> Tensor:
        return x @ coefficients[:, :-1].T + coefficients[:, -1]

    def hits(x: Tensor) -> Tensor:
        return each * true.gather(1, logits(x).argmax(dim=1, keepdim=True))[:, 0]

    def margins(x: Tensor) -> Tensor:
        found = logits(x)
        lead = found.masked_fill(~true, -torch.inf).amax(dim=1) - found.masked_fill(true, -torch.inf).amax(dim=1)
        fitted = true.any(dim=1)  # a class that only the test images have has no logit
        return torch.where(fitted, lead, 0.0) / fitted.double().mean()

    return held_out, {task.metric: hits, "margin": margins}


def _inside(features: Tensor, masks: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Which dimensions `(D,)` are in each subspace."""
    if masks.ndim != 2 or masks.shape != (len(names), features.shape[1]) or len(set(names)) < len(names):
        raise refuse("masks", tuple(masks.shape), f"({len(names)}, {features.shape[1]}), and names that differ")
    return dict(zip(names, masks >= CHOSEN, strict=True))


def _orders(dims: int, draws: int, seed: int) -> list[Tensor]:
    """A random place in order for each dimension, `(D,)`, `draws` times: those below s are s random dimensions."""
    check_int("draws", draws, 0)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(dims, generator=generator) for _ in range(draws)]
