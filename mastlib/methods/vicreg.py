"""VICReg (Bardes, Ponce, LeCun; ICLR 2022)."""

from __future__ import annotations

from torch import Tensor

from mastlib import losses
from mastlib.methods.base import Encoded, Method, Parts
from mastlib.spec import RunSpec


class VICReg(Method):
    """VICReg's loss on the embeddings of two views, projector 8192-8192-8192; pairs of any pairing are treated alike.

    With `pairing="isolate_one"` it sees MAST's pairs without MAST's masks: the control that MAST is measured against.
    """

    def prepare(self, spec: RunSpec, classes: int) -> None:
        self.weights = (spec.invariance_weight, spec.variance_weight, spec.covariance_weight)

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return 8192, 8192, 8192

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        first, second = encoded.embeddings
        return losses.vicreg(first, second, self.weights)
