"""Does uncertainty follow how strongly a view was changed? Augmentations in doses, and a test against shuffled doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from mastlib.augment import ColorJitter, Op, Pipeline
from mastlib.augment.pipeline import Params
from mastlib.errors import check_int
from mastlib.evaluation.subspaces import BATCH
from mastlib.evaluation.uncertainty import Read
from mastlib.stats import interval


@dataclass(frozen=True)
class Dose:
    """Uncertainty `values` `(N, S, K)` float64 of N images at each of `levels` `(S,)`, in the subspaces `names` (K)."""

    names: tuple[str, ...]
    levels: Tensor
    values: Tensor


@torch.no_grad()
def by_strength(read: Read, pipeline: Pipeline, images: Tensor, steps: int = 5, seed: int = 0) -> dict[str, Dose]:
    """Uncertainty of `images` `(N, 3, S, S)` under each augmentation of `pipeline` alone, the others off, by strength in [0, 1].

    At strength t the parameters are identity + t (end - identity), in `steps` even steps of t, fewer where few integers lie
    between: two for what is either applied or not. end: of each parameter the end of `Op.ranges` that is farther from the
    identity, for each image one by a fair coin where both are as far; the order of the jitter's parts stays as it is.
    `read`, `pipeline`: of `of_run`. Raises InputError for fewer than two steps.
    """
    check_int("steps", steps, 2)
    found = {}
    for op in pipeline.ops:
        generator = torch.Generator().manual_seed(seed)
        whole = torch.tensor([r.whole for r in op.ranges()])
        ends = _ends(op, len(images), generator)
        counts = (ends - op.identity).abs().amax(dim=0)[whole]  # integers from the identity to the end, less one
        levels = torch.linspace(0, 1, min([steps, *(int(n) + 1 for n in counts.tolist() if n)]))
        sets = []
        for t in levels:
            rows = torch.lerp(op.identity.expand_as(ends), ends, t)
            sets.append({op.name: torch.where(whole, rows.round(), rows)})
        found[op.name] = _dose(read, pipeline, images, levels, sets)
    return found


def _ends(op: Op, n: int, generator: torch.Generator) -> Tensor:
    """The farther end of each parameter's range, `(n, p)`."""
    low, high = torch.tensor([(float(r.low), float(r.high)) for r in op.ranges()]).unbind(dim=1)
    below, above = op.identity - low, high - op.identity
    coin = torch.rand(n, len(low), generator=generator) < 0.5
    ends = torch.where(torch.where(torch.isclose(below, above), coin, below > above), low, high)
    if isinstance(op, ColorJitter):
        ends[:, 4] = op.identity[4]  # an order has no strength
    return ends


@torch.no_grad()
def by_count(read: Read, pipeline: Pipeline, images: Tensor, seed: int = 0) -> dict[str, Dose]:
    """Uncertainty of `images` `(N, 3, S, S)` by how many of the pipeline's K operations are applied, 0 to K, as "operations".

    Each image has its own random order of operations, and parameters drawn once as in training (`Op.sample`): a step adds the next
    operation to those before. `read`, `pipeline`: of `of_run`.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(pipeline.ops)
    place = torch.rand(len(images), count, generator=generator).argsort(dim=1)
    drawn = [op.sample(len(images), generator) for op in pipeline.ops]
    sets = [
        {op.name: torch.where(place[:, k, None] < c, drawn[k], op.identity) for k, op in enumerate(pipeline.ops)}
        for c in range(count + 1)
    ]
    return {"operations": _dose(read, pipeline, images, torch.arange(count + 1), sets)}


def _dose(read: Read, pipeline: Pipeline, images: Tensor, levels: Tensor, sets: Sequence[Params]) -> Dose:
    """Uncertainty under each of `sets` of parameters; operations that it does not name are off."""
    off = {op.name: op.identity.expand(len(images), -1) for op in pipeline.ops}
    values = []
    for params in sets:
        parts = []
        for rows in torch.arange(len(images)).split(BATCH):
            views = pipeline.apply(images[rows], {name: row[rows] for name, row in (off | params).items()})
            parts.append(read(views).double())
        values.append(torch.cat(parts))
    return Dose(pipeline.names, levels.double(), torch.stack(values, dim=1))


def curve(doses: Mapping[str, Dose]) -> pd.DataFrame:
    """A row per (varied, subspace, level): mean uncertainty over images with its t interval `low`, `high`, and `n` images."""
    rows = [
        (varied, name, float(level), *interval(dose.values[:, s, k].numpy()))
        for varied, dose in doses.items()
        for k, name in enumerate(dose.names)
        for s, level in enumerate(dose.levels)
    ]
    return pd.DataFrame(rows, columns=["varied", "subspace", "level", "mean", "low", "high", "n"])


def rises(doses: Mapping[str, Dose], shuffles: int = 999, seed: int = 0) -> pd.DataFrame:
    """Does uncertainty rise with the level? A row per (varied, subspace): `spearman`, `within`, `p`, `n` images.

    spearman: rank correlation of level and uncertainty over all views of all images; within: that of each image's own views,
    averaged over images, 1 where every image's uncertainty rises at every step; both 0 where nothing varies. p: share of
    `shuffles` of the levels within each image, and of the true order, whose |spearman| is at least as large. Two-sided.
    Raises InputError for fewer than one shuffle.
    """
    check_int("shuffles", shuffles, 1)
    rows = []
    for varied, dose in doses.items():
        draw = np.random.default_rng(seed)
        n, s, k = dose.values.shape
        levels = np.tile(dose.levels.numpy(), (n, 1))
        pooled = _ranked(dose.values.numpy().reshape(n * s, k), axis=0)
        within = np.einsum("ns,nsk->k", _ranked(levels, axis=1), _ranked(dose.values.numpy(), axis=1)) / n
        ranked = _ranked(levels.ravel(), axis=0).reshape(n, s)
        found = ranked.ravel() @ pooled
        shuffled = np.stack([draw.permuted(ranked, axis=1).ravel() @ pooled for _ in range(shuffles)])
        p = (1 + (np.abs(shuffled) >= np.abs(found) - 1e-12).sum(axis=0)) / (1 + shuffles)
        rows += [(varied, *row, n) for row in zip(dose.names, found, within, p, strict=True)]
    return pd.DataFrame(rows, columns=["varied", "subspace", "spearman", "within", "p", "n"])


def _ranked(values: np.ndarray, axis: int) -> np.ndarray:
    """Ranks along `axis`, centred and of norm one, so that a sum of products is Spearman's correlation; zeros for a constant."""
    ranks = stats.rankdata(values, axis=axis)
    ranks = ranks - ranks.mean(axis=axis, keepdims=True)
    norm = np.linalg.norm(ranks, axis=axis, keepdims=True)
    return ranks / np.where(norm > 0, norm, 1)
