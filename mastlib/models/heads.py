"""One MLP builder for every projector, expander, predictor and head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from mastlib.errors import check_choice

LAST = ("plain", "bias", "norm")


def mlp(sizes: Sequence[int], last: str = "plain") -> nn.Sequential:
    """Linear layers through `sizes`, batch-norm and ReLU after all but the last; shapes `(N, sizes[0]) -> (N, sizes[-1])`.

    The last layer is "plain" (no bias), has a "bias", or is followed by a batch-norm ("norm", with scale and shift).
    `mlp((512, 8192, 8192, 8192))` is VICReg's expander: "two fully-connected layers with batch normalisation and ReLU,
    and a third linear layer" (Bardes et al. 2022, section 4.2, in our words). Raises InputError for another `last`.
    """
    check_choice("last", last, LAST)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=last == "bias"))
    if last == "norm":
        layers.append(nn.BatchNorm1d(sizes[-1]))
    return nn.Sequential(*layers)


class Projector(nn.Module):
    """An `mlp` that also gives what its last linear layer reads.

    `forward(features (N, d), condition) -> (embeddings (N, D), penultimate activations (N, H))`; the condition is for
    projectors that are told what was done to a view, this one takes None.
    """

    def __init__(self, sizes: Sequence[int], last: str = "plain") -> None:
        super().__init__()
        layers = mlp(sizes, last)
        cut = len(layers) - (2 if last == "norm" else 1)
        self.body, self.last = layers[:cut], layers[cut:]

    def forward(self, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = self.body(features)
        return self.last(hidden), hidden
