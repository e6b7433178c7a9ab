"""SimCLR (Chen, Kornblith, Norouzi, Hinton; ICML 2020)."""

from __future__ import annotations

from torch import Tensor

from mastlib import losses
from mastlib.methods.base import Encoded, Method, Parts
from mastlib.spec import RunSpec


class SimCLR(Method):
    """NT-Xent between two views and all other images of the batch, projector d-d-128."""

    last = "bias"

    def prepare(self, spec: RunSpec, classes: int) -> None:
        self.temperature = spec.temperature

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return dim, 128

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        first, second = encoded.embeddings
        return {"loss": losses.nt_xent(first, second, self.temperature).mean()}
