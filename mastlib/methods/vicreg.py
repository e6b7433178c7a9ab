"""VICReg (Bardes, Ponce, LeCun; ICLR 2022)."""

from __future__ import annotations

from torch import Tensor

from mastlib import losses
from mastlib.methods.base import Method
from mastlib.spec import RunSpec


class VICReg(Method):
    """VICReg's loss on the embeddings of two views; pairs of either pairing are treated alike.

    With `pairing="isolate_one"` it sees MAST's pairs without MAST's masks: the control that MAST is measured against.
    """

    def objective(self, z1: Tensor, z2: Tensor, h1: Tensor, h2: Tensor, changed: Tensor) -> dict[str, Tensor]:
        return losses.vicreg(z1, z2, self.weights)


def build(spec: RunSpec, augmentations: tuple[str, ...]) -> VICReg:
    """The method of `spec`; VICReg does not look at which augmentations there are."""
    return VICReg(spec)
