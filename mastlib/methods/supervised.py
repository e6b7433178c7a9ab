"""Supervised pre-training: the reference that self-supervised features are held against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mastlib import losses
from mastlib.errors import InputError, check_int
from mastlib.methods.base import Encoded, Method, Parts
from mastlib.spec import RunSpec


class Supervised(Method):
    """Cross-entropy of a linear classifier on both views' features; images without a label (-1) do not count.

    Two views, as AugSelf's supervised arm has them (Lee et al. 2021, section 4.1), so that it sees what the others see.
    """

    wants_labels = True

    def prepare(self, spec: RunSpec, classes: int) -> None:
        check_int("classes", classes, 2)
        self.classifier = nn.Linear(self.sizes[0], classes)

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return ()

    def encode(self, images: Tensor, conditions: Sequence[Tensor | None]) -> Encoded:
        features = [self.features(view) for view in images[:2]]
        return Encoded(features, features, features)

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        if labels is None:
            raise InputError("host = 'supervised' needs labels with the images")
        first, second = (losses.cross_entropy(self.classifier(f), labels) for f in encoded.features)
        return {"loss": (first + second) / 2}
