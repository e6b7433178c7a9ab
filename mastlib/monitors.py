"""What is watched while a method trains: rank of features, nearest neighbours; and when a run has collapsed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mastlib.evaluation.features import extract
from mastlib.evaluation.nearest import knn_accuracy

COLLAPSED_STD = 0.1  # of `methods.base.embedding_std`, which is 1 for an even spread and 0 for a constant
COLLAPSED_RANK = 2.0  # effective rank below which features hold no more than a line


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of `features` `(N, D)`: from 1 to min(N, D).

    Garrido et al. 2023 (RankMe), section 3.
    """
    spectrum = torch.linalg.svdvals(features.double())
    p = spectrum / spectrum.sum().clamp(min=1e-12) + 1e-12
    return float(torch.exp(-(p * p.log()).sum()))


def collapsed(embedding_std: float, rank: float) -> bool:
    """Whether the last monitors of a run say that its features hold nothing: std below 0.1 or effective rank below 2."""
    return embedding_std < COLLAPSED_STD or rank < COLLAPSED_RANK


@dataclass
class Monitors:
    """Images `(M, 3, S, S)` to watch features on, their classes `(M,)` if they have any, and which are asked: `Source.watched`."""

    images: Tensor
    labels: Tensor | None
    query: Tensor

    def read(self, backbone: torch.nn.Module) -> dict[str, float]:
        """`rank`: effective rank of the features; `knn`: 1-NN accuracy of the asked images' classes by the others, nan without
        classes."""
        features = extract(backbone, self.images)
        memory, query = ~self.query, self.query
        knn = math.nan
        if self.labels is not None:
            knn = knn_accuracy(features[memory], self.labels[memory], features[query], self.labels[query])
        return {"rank": effective_rank(features[:1024] - features[:1024].mean(0)), "knn": knn}
