"""SwAV (Caron, Misra, Mairal, Goyal, Bojanowski, Joulin; NeurIPS 2020), with two views of full size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mastlib import losses
from mastlib.methods.base import Encoded, Method, Parts
from mastlib.spec import RunSpec


class SwAV(Method):
    """Each view predicts to which prototypes the other is assigned; projector 2048-128.

    Prototypes are unit rows `(P, D)`, without gradient for the first `spec.freeze_prototypes` of training's steps. No
    queue and no small crops; temperature .1, Sinkhorn with eps .05 and 3 iterations (as in AugSelf's code).
    """

    last = "bias"

    def prepare(self, spec: RunSpec, classes: int) -> None:
        self.frozen_steps = round(spec.freeze_prototypes * spec.total_steps)
        self.prototypes = nn.Parameter(functional.normalize(torch.randn(spec.prototypes, self.sizes[-1]), dim=1))

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return 2048, 128

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        if self.training:
            with torch.no_grad():
                self.prototypes.copy_(functional.normalize(self.prototypes, dim=1))
        prototypes = self.prototypes.detach() if step < self.frozen_steps else self.prototypes
        scores = [functional.normalize(z, dim=1) @ prototypes.T for z in encoded.embeddings]
        return {"loss": losses.swav(scores[0], scores[1])}
