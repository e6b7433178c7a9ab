"""Several backbones side by side as one, for every task and analysis that takes a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mastlib.errors import check_int, refuse
from mastlib.evaluation.design import CONSTANT
from mastlib.evaluation.features import extract


class Fused(nn.Module):
    """f(x) = [g_1(x), ..., g_k(x)], `(N, 3, H, W) -> (N, sum of dims)`, g_i a backbone's features, raw or standardised.

    Raw, the backbone with the largest features decides wherever a protocol does not standardise by itself (episodes, neighbours,
    `logistic_probe(standardise=False)`). With `images` `(M, 3, S, S)` every feature is centred and scaled by its mean and deviation
    over them, so that backbones count by their width; take images that are not tested on.

    What a fusion gains must be told from what more features gain: compare it with as many seeds of one method, or give it the
    `width` of one backbone, of which each then has an equal share (the first ones one more where it does not divide), of features
    drawn at random by `seed`. Raises InputError without a backbone, and for a width of which some would have none or more features
    than it has. Source: Ericsson et al. 2021 (ssl-invariances): raw, as wide as all together.
    """

    means: Tensor
    scales: Tensor

    def __init__(
        self, backbones: Sequence[nn.Module], images: Tensor | None = None, width: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if not backbones:
            raise refuse("backbones", [], "one or more")
        self.backbones = nn.ModuleList(backbones)
        if width is not None:
            check_int("width", width, len(backbones))
        self.width, self.seed = width, seed
        self.shares = [
            width and width // len(backbones) + (place < width % len(backbones)) for place in range(len(backbones))
        ]
        self.register_buffer("means", torch.zeros(1))
        self.register_buffer("scales", torch.ones(1))
        if images is not None:
            features = extract(self, images).double()
            mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
            self.means = mean.float()
            # A constant feature says nothing, and its rounding must not be blown up.
            self.scales = torch.where(deviation > CONSTANT * mean.abs(), deviation, torch.inf).float()

    def forward(self, images: Tensor) -> Tensor:
        parts = [self._share(place, backbone(images)) for place, backbone in enumerate(self.backbones)]
        return (torch.cat(parts, dim=1) - self.means) / self.scales

    def _share(self, place: int, features: Tensor) -> Tensor:
        """The features `(N, D)` of the backbone at `place` that take part: the same ones each time."""
        share, there = self.shares[place], features.shape[1]
        if share is None:
            return features
        if share > there:
            raise refuse("width", self.width, f"a share of at most {there} features of backbone {place}")
        order = torch.randperm(there, generator=torch.Generator().manual_seed(self.seed * len(self.shares) + place))
        return features[:, order[:share].sort().values.to(features.device)]
