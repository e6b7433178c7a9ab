"""CASSLE (Przewięźlikowski, Pyla, Zieliński, Twardowski, Tabor, Śmieja; 2024): tell the projector what was done to a view."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mastlib.augment.algebra import DESCRIPTORS, descriptors
from mastlib.augment.pipeline import Views
from mastlib.errors import InputError, refuse
from mastlib.methods.base import Awareness
from mastlib.models.heads import Projector, mlp
from mastlib.spec import RunSpec

HYPERNETWORK_BYTES = 2 << 30  # of generated weights for one view; a step holds them, and their gradients, of two


class CASSLE(Awareness):
    """The host's projector reads pi(f(v), omega(v)): each view's call gets that view's own descriptor omega.

    omega joins the parts that `spec.condition_on` names (see `algebra.descriptors`); g is an MLP of `spec.condition_depth`
    layers, `spec.condition_width` wide, each with batch-norm [condition_mode]:

    - "concat" pi([e, g(omega)]);  "raw" pi([e, omega]), a control;  "add" pi(e + g(omega));  "multiply" pi(e * g(omega))
    - "hypernetwork" pi's weights are h(omega), another pi for each image.

    Nothing else of the host changes; its slow copy, where it has one, is told of its own view. As a control a view may be given
    the descriptor of another image's view [condition_given]. Source: section 3 and the authors' code.
    Raises InputError for a key that the pipeline has no augmentation for, and for a hypernetwork that is too large.
    """

    def __init__(self, spec: RunSpec, augmentations: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(spec, augmentations, sizes)
        self.keys = tuple(sorted(spec.condition_on))
        for key in self.keys:
            if ("color" if key == "color_diff" else key) not in augmentations:
                raise refuse(
                    "condition_on", list(self.keys), f"parts that the pipeline has: {', '.join(augmentations)}"
                )
        self.wants_color_diff = "color_diff" in self.keys
        self.mode, self.given, self.batch_size = spec.condition_mode, spec.condition_given, spec.batch_size
        self.width, self.layers = spec.condition_width, [spec.condition_width] * (spec.condition_depth - 1)
        self.length = sum(DESCRIPTORS[key] for key in self.keys)

    def conditions(self, views: Views) -> list[Tensor | None]:
        told = descriptors(views, self.keys)
        # The next image's: what is drawn does not look at the image, so it is as true of this one as any other.
        return list(told if self.given == "own" else told.roll(1, dims=1))

    def projector(self, sizes: Sequence[int], last: str) -> nn.Module:
        dim, *rest = sizes
        if self.mode == "hypernetwork":
            needed = 4 * self.batch_size * HyperProjector.count(sizes)
            if needed > HYPERNETWORK_BYTES:
                raise InputError(
                    f"condition_mode = 'hypernetwork' would generate {needed / 2**30:.1f} GiB of weights for one view (a projector "
                    f"of {HyperProjector.count(sizes):,} weights for each of {self.batch_size} images); at most "
                    f"{HYPERNETWORK_BYTES / 2**30:.0f} GiB: a smaller projector or batch_size, or another condition_mode"
                )
            return HyperProjector(sizes, last, (self.length, *self.layers))
        if self.mode == "raw":
            return ConditionedProjector((dim + self.length, *rest), last, None, self.mode)
        width = self.width if self.mode == "concat" else dim
        told = mlp((self.length, *self.layers, width), "norm")
        inputs = dim + width if self.mode == "concat" else dim
        return ConditionedProjector((inputs, *rest), last, told, self.mode)


class ConditionedProjector(Projector):
    """A projector of features that were joined, shifted or scaled by what `told` makes of a descriptor `(N, p)`."""

    def __init__(self, sizes: Sequence[int], last: str, told: nn.Module | None, mode: str) -> None:
        super().__init__(sizes, last)
        self.told, self.mode = told, mode

    def forward(self, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if condition is None:
            raise InputError("a conditioned projector needs the descriptor of its view")
        known = condition.to(features.dtype) if self.told is None else self.told(condition).to(features.dtype)
        if self.mode == "add":
            return super().forward(features + known)
        if self.mode == "multiply":
            return super().forward(features * known)
        return super().forward(torch.cat([features, known], dim=1))


class HyperProjector(nn.Module):
    """x_{l+1} = ReLU(x_l W_l + b_l), no ReLU at the end, W_l and b_l `(N, ...)` made for each image from its descriptor.

    As in the authors' code there is no batch-norm between the layers, only over the generated weights; here its scale starts at
    1 / sqrt(inputs of the layer), so that activations start near one.
    """

    def __init__(self, sizes: Sequence[int], last: str, told: Sequence[int]) -> None:
        super().__init__()
        self.shapes = list(pairwise(sizes))
        self.weights = mlp((*told, self.count(sizes)), "norm")
        norm = self.weights[-1]
        assert isinstance(norm, nn.BatchNorm1d)
        with torch.no_grad():
            scale = [torch.full((i * o + o,), i**-0.5) for i, o in self.shapes]
            norm.weight.copy_(torch.cat(scale))
        self.norm = nn.BatchNorm1d(sizes[-1]) if last == "norm" else nn.Identity()

    @staticmethod
    def count(sizes: Sequence[int]) -> int:
        """Weights and biases of one image's projector."""
        return sum(i * o + o for i, o in pairwise(sizes))

    def forward(self, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if condition is None:
            raise InputError("a conditioned projector needs the descriptor of its view")
        generated = self.weights(condition).to(features.dtype)
        hidden, rows = features, features
        start = 0
        for layer, (inputs, outputs) in enumerate(self.shapes):
            hidden = rows.relu() if layer else rows
            weight = generated[:, start : start + inputs * outputs].view(-1, inputs, outputs)
            bias = generated[:, start + inputs * outputs : start + inputs * outputs + outputs]
            rows = torch.bmm(hidden[:, None], weight)[:, 0] + bias
            start += inputs * outputs + outputs
        return self.norm(rows), hidden
