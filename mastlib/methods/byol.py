"""BYOL (Grill, Strub, Altché, Tallec, Richemond et al.; NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mastlib import losses
from mastlib.methods.base import Encoded, Momentum, Parts, cosine_to_one
from mastlib.models.heads import mlp
from mastlib.spec import RunSpec


class BYOL(Momentum):
    """Each view's prediction of what a slow copy makes of the other: sum of both 2 - 2 cos; projector 4096-256.

    The copy's momentum rises from `spec.momentum` (.996) to 1 along a cosine (appendix C.1).
    """

    last = "bias"

    def prepare(self, spec: RunSpec, classes: int) -> None:
        super().prepare(spec, classes)
        hidden, width = self.sizes[-2:]
        self.predictor = mlp((width, hidden, width), "bias")

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return 4096, 256

    def rate(self, step: int) -> float:
        return cosine_to_one(self.momentum, step, self.total_steps)

    def encode(self, images: Tensor, conditions: Sequence[Tensor | None]) -> Encoded:
        encoded = super().encode(images, conditions)
        encoded.targets = [self.slow(view, c)[1] for view, c in zip(images[:2], conditions, strict=False)]
        return encoded

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        (z1, z2), (t1, t2) = encoded.embeddings, encoded.targets
        first = losses.negative_cosine(self.predictor(z1), t2)
        second = losses.negative_cosine(self.predictor(z2), t1)
        return {"loss": 4 + 2 * (first + second)}
