"""What a method is: a module that turns views into a loss, around the backbone that will be transferred."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mastlib.augment.pipeline import Views
from mastlib.models.backbones import build_backbone, normalise
from mastlib.models.heads import mlp
from mastlib.spec import RunSpec


class Method(nn.Module):
    """Backbone and expander shared by the joint-embedding methods; a subclass says how embeddings become a loss.

    `forward(views, step)` returns scalars: `loss` and every part that it is made of, float32 (Python-side switches only;
    all state that a run needs to continue is a parameter or a buffer). `backbone` is what transfers; the rest is dropped.
    """

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        self.backbone = build_backbone(spec.backbone, spec.width, spec.stem)
        self.expander = mlp((int(self.backbone.dim), *spec.expander))  # type: ignore[arg-type]
        self.layout = layout_of(spec.memory_format)
        self.weights = (spec.invariance_weight, spec.variance_weight, spec.covariance_weight)

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters with their own learning rate, and without weight decay or LARS scaling; none unless overridden."""
        return iter(())

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings `(N, D)` and the expander's penultimate activations `(N, H)` of images `(N, 3, H, W)` in [0, 1]."""
        hidden = self.expander[:-1](self.backbone(normalise(images).contiguous(memory_format=self.layout)))
        return self.expander[-1](hidden), hidden

    def forward(self, views: Views, step: int) -> dict[str, Tensor]:
        # The views pass one after the other, so that batch-norm statistics are those of one view, as in the official code.
        z1, h1 = self.embed(views.images[0])
        z2, h2 = self.embed(views.images[1])
        with torch.autocast(z1.device.type, enabled=False):
            parts = self.objective(z1.float(), z2.float(), h1.float(), h2.float(), views.changed)
        parts["embedding_std"] = embedding_std(z1.detach())
        return parts

    def objective(self, z1: Tensor, z2: Tensor, h1: Tensor, h2: Tensor, changed: Tensor) -> dict[str, Tensor]:
        """The loss and its parts from both views' embeddings `(N, D)` and penultimate activations `(N, H)`, in float32."""
        raise TypeError(f"{type(self).__name__} defines no objective")


def layout_of(memory_format: str) -> torch.memory_format:
    """torch's name for a spec's memory format."""
    return torch.channels_last if memory_format == "channels_last" else torch.contiguous_format


def embedding_std(z: Tensor) -> Tensor:
    """sqrt(D) x mean standard deviation of the L2-normalised embedding's dimensions: 1 if spread evenly, 0 if collapsed.

    Chen and He 2021 (SimSiam), section 4.1; `(N, D)` -> scalar.
    """
    normalised = torch.nn.functional.normalize(z.float(), dim=1)
    return normalised.std(dim=0).mean() * z.shape[1] ** 0.5
