"""Several backbones side by side as one, for every task and analysis that takes a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mastlib.errors import refuse
from mastlib.evaluation.design import CONSTANT
from mastlib.evaluation.features import extract


class Fused(nn.Module):
    """f(x) = [g_1(x), ..., g_k(x)], `(N, 3, H, W) -> (N, sum of dims)`, g_i a backbone's features, raw or standardised.

    Raw, the backbone with the largest features decides wherever a protocol does not standardise by itself (episodes, neighbours,
    `logistic_probe(standardise=False)`). With `images` `(M, 3, S, S)` every feature is centred and scaled by its mean and deviation
    over them, so that backbones count by their width; take images that are not tested on.

    What a fusion gains must be told from what more features gain: compare it with one backbone of the same width, or with as many
    seeds of one method. Raises InputError without a backbone. Source: Ericsson et al. 2021 (ssl-invariances): raw.
    """

    means: Tensor
    scales: Tensor

    def __init__(self, backbones: Sequence[nn.Module], images: Tensor | None = None) -> None:
        super().__init__()
        if not backbones:
            raise refuse("backbones", [], "one or more")
        self.backbones = nn.ModuleList(backbones)
        mean, scale = torch.zeros(1), torch.ones(1)
        if images is not None:
            features = torch.cat([extract(backbone, images) for backbone in backbones], dim=1).double()
            deviation = features.std(dim=0, correction=0)
            mean = features.mean(dim=0)
            # A constant feature says nothing, and its rounding must not be blown up.
            scale = torch.where(deviation > CONSTANT * mean.abs(), deviation, torch.inf)
        self.register_buffer("means", mean.float())
        self.register_buffer("scales", scale.float())

    def forward(self, images: Tensor) -> Tensor:
        return (torch.cat([backbone(images) for backbone in self.backbones], dim=1) - self.means) / self.scales
