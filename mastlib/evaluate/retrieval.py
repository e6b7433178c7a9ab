"""Retrieval across drawing styles: is the nearest image of another vendor the same emoji?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import InputError


@dataclass(frozen=True)
class RetrievalResult:
    """`recall` (R@1) and `chance` (a random neighbour's) are shares in [0, 1], averaged over ordered vendor pairs; `n`
    queries in all; `pairs` has a row per pair: query, gallery, recall, chance, n."""

    recall: float
    chance: float
    n: int
    pairs: pd.DataFrame


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
    unit = F.normalize(features - features.mean(0), dim=1)
    keys, vendors = np.asarray(keys, dtype=object), np.asarray(vendors, dtype=object)
    rows = []
    for query, gallery in permutations(sorted({v for v in vendors if not pd.isna(v)}), 2):
        shelf = np.flatnonzero((vendors == gallery) & ~pd.isna(keys))
        asked = np.flatnonzero((vendors == query) & np.isin(keys.astype(str), keys[shelf].astype(str)) & ~pd.isna(keys))
        if not len(asked):
            continue
        memory = unit[shelf].T
        nearest = np.concatenate([(part @ memory).argmax(1).cpu().numpy() for part in unit[asked].split(2048)])
        recall = (keys[shelf][nearest] == keys[asked]).mean()
        shares = pd.Series(keys[shelf]).value_counts(normalize=True)
        rows.append((query, gallery, float(recall), float(shares[keys[asked]].mean()), len(asked)))
    if not rows:
        raise InputError("retrieval needs two vendors that share a key; these images have none")
    pairs = pd.DataFrame(rows, columns=["query", "gallery", "recall", "chance", "n"])
    return RetrievalResult(float(pairs["recall"].mean()), float(pairs["chance"].mean()), int(pairs["n"].sum()), pairs)
