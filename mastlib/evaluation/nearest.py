"""Nearest neighbours by cosine: which they are, and whether they are of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import refuse

BLOCK = 2048  # queries at once


def nearest(query: Tensor, memory: Tensor, k: int = 1, own: Tensor | None = None) -> Tensor:
    """The rows of `memory` `(M, D)` that are nearest to each of `query` `(Q, D)` by cosine, nearest first: `(Q, k)`.

    `own` `(Q,)`: the row of the memory that is the query itself, and is not found; -1 where it is not there. Of equally near ones
    the first is the nearest.
    """
    memory, found = F.normalize(memory, dim=1), []
    for part in torch.arange(len(query), device=query.device).split(BLOCK):
        cosines = F.normalize(query[part], dim=1) @ memory.T
        if own is not None:
            mine = own[part]
            cosines[mine >= 0, mine[mine >= 0]] = -torch.inf
        found.append(cosines.argmax(dim=1, keepdim=True) if k == 1 else cosines.topk(k, dim=1).indices)
    return torch.cat(found)


def knn_accuracy(memory: Tensor, memory_labels: Tensor, query: Tensor, query_labels: Tensor) -> float:
    """Share of queries `(Q, D)` whose nearest neighbour by cosine in `memory` `(M, D)` has their label (1-NN)."""
    return float((memory_labels[nearest(query, memory)[:, 0]] == query_labels).float().mean())


def knn_errors(
    features: Tensor, labels: Sequence[object] | np.ndarray | pd.Series, memory: np.ndarray | None = None
) -> np.ndarray:
    """1 where the nearest other image has another label, else 0; NaN where an image has no label. `(M,)`

    features `(M, D)`; labels `(M,)`, missing (NaN, None) where there is none. `memory` `(M,)` bool: the images that neighbours are
    looked for in (None: all; `split == "train"`: validation by training).
    Raises InputError where lengths differ or fewer than two labelled images are in `memory`.
    """
    names = np.asarray(labels, dtype=object)
    known = ~pd.isna(names)
    shelf = np.flatnonzero(known if memory is None else known & memory)
    if len(names) != len(features) or len(shelf) < 2:
        raise refuse(
            "labels", f"{len(names)} labels, {len(shelf)} in memory", f"{len(features)}, two or more in memory"
        )
    own = torch.full((len(names),), -1)
    own[shelf] = torch.arange(len(shelf))
    found = names[shelf][nearest(features, features[shelf], own=own)[:, 0].numpy()]
    return np.where(known, (found != names).astype(float), np.nan)
