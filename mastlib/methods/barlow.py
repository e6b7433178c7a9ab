"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny; ICML 2021)."""

from __future__ import annotations

from torch import Tensor

from mastlib import losses
from mastlib.methods.base import Encoded, Method, Parts


class BarlowTwins(Method):
    """The correlation matrix of two views' embeddings pulled to the identity, projector 8192-8192-8192."""

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return 8192, 8192, 8192

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        first, second = encoded.embeddings
        return losses.barlow_twins(first, second)
