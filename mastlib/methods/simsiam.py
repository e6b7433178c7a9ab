"""SimSiam (Chen, He; CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from mastlib import losses
from mastlib.methods.base import Encoded, Method, Parts
from mastlib.models.heads import mlp
from mastlib.spec import RunSpec


class SimSiam(Method):
    """Each view's prediction of the other's embedding, which gets no gradient; projector 2048-2048, predictor D/4.

    The projector ends with a batch-norm that has scale and shift, as in AugSelf's code (the paper's has none). Three layers
    after a backbone of 2048 features, two after smaller ones (AugSelf's settings for ImageNet and STL-10).
    """

    last = "norm"

    def prepare(self, spec: RunSpec, classes: int) -> None:
        width = self.sizes[-1]
        self.predictor = mlp((width, max(1, width // 4), width), "bias")

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return (2048, 2048, 2048) if dim >= 2048 else (2048, 2048)

    def constant_parameters(self) -> Iterator[nn.Parameter]:
        """The predictor's: its learning rate stays at the peak (section 4.2)."""
        return self.predictor.parameters()

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        z1, z2 = encoded.embeddings
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return {"loss": (losses.negative_cosine(p1, z2) + losses.negative_cosine(p2, z1)) / 2}
