"""Retrieval: is the nearest image of another vendor the same emoji, and what do an image and its neighbours have in common?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.errors import InputError, check_int, refuse
from mastlib.evaluation.nearest import BLOCK, nearest

NEIGHBOURS = 4  # CASSLE's five are with the query itself


@dataclass(frozen=True)
class RetrievalResult:
    """`recall` (R@1) and `chance` (a random neighbour's) are shares in [0, 1], averaged over ordered vendor pairs; `n`
    queries in all; `pairs` has a row per pair: query, gallery, recall, chance, n. `each` has a row per query: its image (`row`),
    its pair (a row of `pairs`), and whether it found its key (`hit`)."""

    recall: float
    chance: float
    n: int
    pairs: pd.DataFrame
    each: pd.DataFrame


def cross_vendor_recall(
    features: Tensor,
    keys: Sequence[object] | np.ndarray | pd.Series,
    vendors: Sequence[object] | np.ndarray | pd.Series,
) -> RetrievalResult:
    """R@1 between vendors: for each image of one, whether the nearest image of another has its key.

    Nearest by the cosine of features minus their mean over all images given: cos(f_i - m, f_j - m), features `(M, D)`,
    keys and vendors `(M,)`. Every ordered pair of vendors weighs the same. Queries whose key the gallery lacks have no
    right answer and are left out. Of equally near images the first counts.
    Raises InputError where no two vendors share a key.
    """
    centred = features - features.mean(0)
    keys, vendors = np.asarray(keys, dtype=object), np.asarray(vendors, dtype=object)
    rows: list[tuple[str, str, float, float, int]] = []
    each = []
    for query, gallery in permutations(sorted({v for v in vendors if not pd.isna(v)}), 2):
        shelf = np.flatnonzero((vendors == gallery) & ~pd.isna(keys))
        asked = np.flatnonzero((vendors == query) & np.isin(keys.astype(str), keys[shelf].astype(str)) & ~pd.isna(keys))
        if not len(asked):
            continue
        hits = keys[shelf][nearest(centred[asked], centred[shelf])[:, 0].cpu().numpy()] == keys[asked]
        each.append(pd.DataFrame({"row": asked, "pair": len(rows), "hit": hits}))
        shares = pd.Series(keys[shelf]).value_counts(normalize=True)
        rows.append((query, gallery, float(hits.mean()), float(shares[keys[asked]].mean()), len(asked)))
    if not rows:
        raise InputError("retrieval needs two vendors that share a key; these images have none")
    pairs = pd.DataFrame(rows, columns=["query", "gallery", "recall", "chance", "n"])
    total = int(pairs["n"].sum())
    return RetrievalResult(float(pairs["recall"].mean()), float(pairs["chance"].mean()), total, pairs, pd.concat(each))


@dataclass(frozen=True)
class NeighbourResult:
    """`value`: the mean over `n` queries; `chance`: what neighbours at random have on average; `each` `(n,)`: by query, whose row
    is its index."""

    value: float
    chance: float
    n: int
    each: pd.Series


def neighbours(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The rows of the `k` images nearest to each, nearest first, `(M, k)`.

    By cos(f_i - m, f_j - m), m the mean of `features` `(M, D)`. An image is not its own neighbour.
    Raises InputError unless k is in 1..M - 1.
    """
    check_int("k", k, 1, len(features) - 1)
    centred = features - features.mean(0)
    return nearest(centred, centred, k, own=torch.arange(len(features), device=features.device))


def precision_at(
    features: Tensor, keys: Sequence[object] | np.ndarray | pd.Series, k: int = NEIGHBOURS
) -> NeighbourResult:
    """Share in [0, 1] of an image's `k` neighbours that have its key: a concept, which is precision at k, or a hue.

    features `(M, D)`, keys `(M,)`. Queries are the images whose key another one has; neighbours may be any, and those without a
    key (None, NaN) are wrong. Where r < k others have the key, no more than r / k can be reached.
    Raises InputError for a bad `k`, lengths that differ, and where no two images share a key.
    Source: AugSelf (Lee et al., 2021) and CASSLE (Przewięźlikowski et al., 2024) show neighbours; the number is ours.
    """
    found = neighbours(features, k).cpu().numpy()
    if len(keys) != len(features):
        raise refuse("keys", f"{len(keys)} keys", f"{len(features)}, as many as images")
    codes, names = pd.factorize(np.asarray(keys, dtype=object))  # -1: no key
    others = np.append(np.bincount(codes[codes >= 0], minlength=len(names)) - 1, 0)[codes]
    asked = np.flatnonzero(others)
    if not len(asked):
        raise InputError("retrieval needs two images that share a key; these have none")
    each = pd.Series((codes[found[asked]] == codes[asked, None]).mean(axis=1), index=asked)
    return NeighbourResult(float(each.mean()), float(others[asked].mean() / (len(codes) - 1)), len(asked), each)


def colour_distance(features: Tensor, histograms: Tensor, k: int = NEIGHBOURS) -> NeighbourResult:
    """Mean Hellinger distance |h_i - h_j| / sqrt 2 in [0, 1] between the colours of an image and of its `k` neighbours.

    features `(M, D)`; histograms h `(M, B)`, square roots of shares (`information.colour_histograms`). 0: the same colours, 1: none
    in common. All images are queries; `chance` is the mean over all pairs. Raises InputError for a bad `k` and lengths that differ.
    Source: as `precision_at`.
    """
    found = neighbours(features, k).to(histograms.device)
    if len(histograms) != len(features):
        raise refuse("histograms", f"{len(histograms)} rows", f"{len(features)}, as many as images")
    own, total = [], 0.0
    for start, part in zip(range(0, len(histograms), BLOCK), histograms.split(BLOCK), strict=True):
        own.append((part[:, None] - histograms[found[start : start + BLOCK]]).norm(dim=2).mean(dim=1))
        every = torch.cdist(part, histograms)
        every.diagonal(start).zero_()  # where rounding shows most
        total += float(every.double().sum())
    each = pd.Series((torch.cat(own).double() / 2**0.5).cpu().numpy())
    n = len(each)
    return NeighbourResult(float(each.mean()), total / 2**0.5 / (n * (n - 1)), n, each)
