"""Masks, read from a finished MAST run, and what they have in common: shared dimensions, likeness, kinship."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from torch import Tensor

from mastlib.augment.geometry import Geometry
from mastlib.augment.pipeline import Pipeline
from mastlib.errors import InputError, check_int, refuse
from mastlib.methods.masks import masks_of, overlap
from mastlib.runs import Run
from mastlib.training import weights_of

CHOSEN = 0.5  # a mask's entry from which on its dimension counts as one of the subspace


def read_masks(run: Run) -> Tensor:
    """The masks `(K, D)` of a MAST run, one row per augmentation in the order of `run.info["augmentations"]`.

    Raises InputError for a run of another method.
    """
    if run.spec.awareness != "mast":
        raise refuse("run", run.id, f"a run with awareness = 'mast' (this one has {run.spec.awareness!r})")
    return masks_of(run.spec.mask_type, weights_of(run, "method")["aware.masks.raw"])


def groups_of(pipeline: Pipeline) -> dict[str, str]:
    """What each augmentation changes: "spatial", where pixels are, or "appearance", what they are.

    The two are those of ssl-invariances' presets and of `evaluation.transforms`.
    """
    return {op.name: "spatial" if isinstance(op, Geometry) else "appearance" for op in pipeline.ops}


def holders(masks: Tensor, level: float = CHOSEN) -> pd.DataFrame:
    """Shares of dimensions by how many of the K subspaces hold them: columns subspaces (0 to K), share, expected.

    expected: of independent subspaces with these sizes, the Poisson binomial distribution. A dimension is in a subspace as in
    `sharing`.
    """
    inside = (masks >= level).double()
    expected = np.ones(1)
    for size in inside.mean(dim=1).tolist():
        expected = np.convolve(expected, [1 - size, size])
    counts = torch.bincount(inside.sum(dim=0).long(), minlength=len(masks) + 1) / masks.shape[1]
    return pd.DataFrame({"subspaces": range(len(masks) + 1), "share": counts.tolist(), "expected": expected})


def sharing(masks: Tensor, names: Sequence[str], level: float = CHOSEN) -> pd.DataFrame:
    """A row for each augmentation, shares of the D dimensions: `chosen`, those in its subspace; `unique`, in no other's; `all`, in
    every one's; `expected unique`, what independent subspaces of these sizes would have.

    A dimension is in a subspace where masks `(K, D)` are at least `level`.
    """
    inside = _named(masks, names) >= level
    count = inside.sum(dim=0)
    sizes = inside.double().mean(dim=1)
    rows = {
        "chosen": sizes,
        "unique": (inside & (count == 1)).double().mean(dim=1),
        "all": (inside & (count == len(names))).double().mean(dim=1),
        "expected unique": torch.stack(
            [size * torch.cat([sizes[:k], sizes[k + 1 :]]).neg().add(1).prod() for k, size in enumerate(sizes)]
        ),
    }
    return pd.DataFrame({name: values.tolist() for name, values in rows.items()}, index=list(names))


def tree(masks: Tensor, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Augmentations joined by likeness: SciPy's linkage `(K - 1, 4)`, average, of the distances 1 - `overlap`; and the names in the
    order of its leaves. Raises InputError for a mask without a choice, whose likeness to others is not defined."""
    distances = 1 - _likeness(masks, names)
    joined = hierarchy.linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return joined, [names[leaf] for leaf in hierarchy.leaves_list(joined)]


class Kinship(NamedTuple):
    """`within`, `between`: mean `overlap` of pairs of one group and of two; `p`: share of relabellings that differ as much."""

    within: float
    between: float
    p: float


def kinship(
    masks: Tensor, names: Sequence[str], groups: Mapping[str, str], relabellings: int = 10_000, seed: int = 0
) -> Kinship:
    """Do augmentations of one group choose more alike than those of two? A permutation test on the names.

    groups: name -> group, for every name. All K! relabellings where there are no more than `relabellings`, else that many drawn
    ones and the true one. One-sided. With 5 augmentations in groups of 3 and 2 no p can be below 1/10.
    Raises InputError for a name without a group, and where no pair shares one or no pair does not.
    """
    check_int("relabellings", relabellings, 1)
    missing = [name for name in names if name not in groups]
    if missing:
        raise refuse("groups", dict(groups), f"a group for every augmentation; {', '.join(missing)} has none")
    alike = _likeness(masks, names)
    labels = np.array([groups[name] for name in names])
    upper = np.triu_indices(len(names), 1)
    if math.factorial(len(names)) <= relabellings:
        orders = np.array(list(itertools.permutations(range(len(names)))))
    else:
        draw = np.random.default_rng(seed)
        orders = np.array([np.arange(len(names)), *(draw.permutation(len(names)) for _ in range(relabellings))])
    same = labels[orders][:, upper[0]] == labels[orders][:, upper[1]]  # the first order is the true one
    if same[0].all() or not same[0].any():
        raise refuse("groups", dict(groups), "some pairs of augmentations in one group and some in two")
    pairs = alike[upper]
    within = (same * pairs).sum(axis=1) / same.sum(axis=1)
    between = (~same * pairs).sum(axis=1) / (~same).sum(axis=1)
    gap = within - between
    return Kinship(float(within[0]), float(between[0]), float((gap >= gap[0] - 1e-12).mean()))


def _named(masks: Tensor, names: Sequence[str]) -> Tensor:
    if masks.ndim != 2 or len(masks) != len(names):
        raise InputError(
            f"masks of shape {tuple(masks.shape)} cannot be used; accepted: a row for each of {', '.join(names)}"
        )
    return masks


def _likeness(masks: Tensor, names: Sequence[str]) -> np.ndarray:
    """`overlap` `(K, K)` in float64."""
    flat = [name for name, row in zip(names, _named(masks, names), strict=True) if row.min() == row.max()]
    if flat:
        raise InputError(
            f"the mask of {', '.join(flat)} is the same for every dimension; it is like no other and unlike none"
        )
    return np.asarray(overlap(masks.double()).numpy())
