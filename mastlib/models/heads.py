"""One MLP builder for every projector, expander and predictor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers through `sizes`, batch-norm and ReLU after all but the last, which has no bias.

    `mlp((512, 8192, 8192, 8192))` is VICReg's expander: "two fully-connected layers with batch normalisation and ReLU,
    and a third linear layer" (Bardes et al. 2022, section 4.2, in our words). Shapes `(N, sizes[0]) -> (N, sizes[-1])`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
