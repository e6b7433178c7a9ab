"""What a method is: a host objective around the backbone that will be transferred, and what it knows of augmentations."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mastlib.augment.pipeline import Views
from mastlib.distributed import gather
from mastlib.models.backbones import normalise
from mastlib.models.heads import Projector
from mastlib.spec import RunSpec
from mastlib.transfer import backbone_of, stages_of

Parts = dict[str, Tensor]  # scalars: `loss` and what it is made of


@dataclass
class Encoded:
    """What a host made of two views: float32, row i of image i.

    `features` `(N, d)` of the backbone; `embeddings` `(N, D)` and penultimate activations `hidden` `(N, H)` of the
    projector; `targets` `(N, D)`, embeddings by a momentum branch, without gradient, where the host has one.
    """

    features: list[Tensor]
    embeddings: list[Tensor]
    hidden: list[Tensor]
    targets: list[Tensor] = field(default_factory=list)


class Awareness(nn.Module):
    """What a method does with the knowledge of what was done to each view; as it stands here, nothing.

    Each of its methods is one place where it may step in: the projector that the host builds, what that projector is
    told, the objective, and terms added to the loss. Its `spec` field is `awareness`; the module is dropped at transfer.
    """

    wants_color_diff = False  # whether views must tell `color_diff`

    def __init__(self, spec: RunSpec, augmentations: Sequence[str], sizes: Sequence[int]) -> None:
        """`augmentations`: the pipeline's names in order; `sizes`: (d, ..., D), of what a projector reads and its layers."""
        super().__init__()

    def projector(self, sizes: Sequence[int], last: str) -> nn.Module:
        """The host's projector, `(features, condition) -> (embeddings, penultimate activations)`."""
        return Projector(sizes, last)

    def conditions(self, views: Views) -> list[Tensor | None]:
        """What the projector is told of each view: `(N, p)`, or None."""
        return [None] * len(views.images)

    def encode(self, host: Method, views: Views) -> Encoded:
        """What the objective reads."""
        return host.encode(views.images, self.conditions(views))

    def objective(self, host: Method, encoded: Encoded, views: Views, labels: Tensor | None, step: int) -> Parts:
        """The loss and its parts."""
        return host.objective(encoded, labels, step)

    def added(self, encoded: Encoded, views: Views) -> Parts:
        """Terms that are added to the loss, by name."""
        return {}

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters with their own learning rate, and without weight decay or LARS scaling."""
        return iter(())


class Method(nn.Module, ABC):
    """A host: backbone, projector, and how two views' embeddings become a loss; a subclass says the last.

    `forward(views, step, labels)` returns scalars in float32: `loss` and every part it is made of. All state that a run
    needs to continue is a parameter or a buffer. `backbone` is what transfers; the rest is dropped.
    """

    last = "plain"  # how the projector ends, see `models.heads.mlp`
    wants_labels = False

    def __init__(
        self, spec: RunSpec, awareness: type[Awareness], augmentations: Sequence[str], classes: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone_of(spec)
        dim = int(self.backbone.dim) // stages_of(spec)  # type: ignore[arg-type]
        self.sizes = (dim, *(spec.projector or self.paper_sizes(dim)))
        self.aware = awareness(spec, augmentations, self.sizes)
        self.projector = self.aware.projector(self.sizes, self.last) if len(self.sizes) > 1 else nn.Identity()
        self.layout = layout_of(spec.memory_format)
        self.prepare(spec, classes)

    def prepare(self, spec: RunSpec, classes: int) -> None:
        """What a host has besides backbone and projector; `classes`: how many labels there are."""

    @staticmethod
    @abstractmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        """Widths of the projector's layers after a backbone of width `dim`, as the host's paper has them."""

    @abstractmethod
    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        """The loss and its parts, in float32."""

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        return self.aware.mask_parameters()

    def constant_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters whose learning rate is not scheduled; none unless overridden."""
        return iter(())

    def features(self, images: Tensor) -> Tensor:
        """`(N, d)` of images `(N, 3, H, W)` in [0, 1]."""
        return self.backbone(normalise(images).contiguous(memory_format=self.layout))

    def encode(self, images: Tensor, conditions: Sequence[Tensor | None]) -> Encoded:
        """Both views, one after the other, so that batch-norm statistics are those of one view, as in the official codes."""
        features = [self.features(view) for view in images[:2]]
        made = [self.projector(f, c) for f, c in zip(features, conditions, strict=False)]
        return Encoded(features, [z for z, _ in made], [h for _, h in made])

    def forward(self, views: Views, step: int, labels: Tensor | None = None) -> Parts:
        encoded = self.aware.encode(self, views)
        with torch.autocast(views.images.device.type, enabled=False):
            for name in ("features", "embeddings", "hidden", "targets"):
                setattr(encoded, name, [rows.float() for rows in getattr(encoded, name)])
            parts = self.aware.objective(self, encoded, views, labels, step)
            added = self.aware.added(encoded, views)
            parts["loss"] = sum(added.values(), start=parts["loss"])
        return parts | added | {"embedding_std": embedding_std(encoded.embeddings[0].detach())}


class Momentum(Method):
    """A host with a second, slowly following copy of backbone and projector, whose outputs are targets without gradient.

    theta' <- m theta' + (1 - m) theta before each step that follows another (so the targets of a step come from the weights
    that the optimiser left). Batch-norm statistics of the copy are its own.
    """

    def prepare(self, spec: RunSpec, classes: int) -> None:
        self.slow_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.momentum, self.total_steps = spec.momentum, spec.total_steps

    def rate(self, step: int) -> float:
        """m at `step`."""
        return self.momentum

    @torch.no_grad()
    def follow(self, step: int) -> None:
        for slow, fast in ((self.slow_backbone, self.backbone), (self.slow_projector, self.projector)):
            for target, source in zip(slow.parameters(), fast.parameters(), strict=True):
                target.lerp_(source, 1 - self.rate(step))

    @torch.no_grad()
    def slow_features(self, images: Tensor) -> Tensor:
        """As `features`, by the slow copy."""
        return self.slow_backbone(normalise(images).contiguous(memory_format=self.layout))

    @torch.no_grad()
    def slow(self, images: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and embeddings by the slow copy."""
        features = self.slow_features(images)
        return features, self.slow_projector(features, condition)[0]

    def forward(self, views: Views, step: int, labels: Tensor | None = None) -> Parts:
        if self.training and step > 0:
            self.follow(step)
        return super().forward(views, step, labels)


def cosine_to_one(base: float, step: int, total: int) -> float:
    """1 - (1 - base)(cos(pi step / total) + 1) / 2: from `base` to 1 (BYOL, Grill et al. 2020, appendix C.1)."""
    return 1 - (1 - base) * (math.cos(math.pi * min(step / total, 1.0)) + 1) / 2


def layout_of(memory_format: str) -> torch.memory_format:
    """torch's name for a spec's memory format."""
    return torch.channels_last if memory_format == "channels_last" else torch.contiguous_format


def embedding_std(z: Tensor) -> Tensor:
    """sqrt(D) x mean standard deviation of the L2-normalised embeddings' dimensions: 1 if spread evenly, 0 if collapsed.

    Chen and He 2021 (SimSiam), section 4.1; `(N, D)` -> scalar, over the rows of all processes.
    """
    normalised = torch.nn.functional.normalize(gather(z).float(), dim=1)
    return normalised.std(dim=0).mean() * z.shape[1] ** 0.5
