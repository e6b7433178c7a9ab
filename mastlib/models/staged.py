"""A backbone as its stages one after the other, for what reads feature maps instead of pooled features."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mastlib.models.backbones import Branched, ResNetSmall


class _Side(nn.Module):
    """The maps of several last stages, side by side."""

    def __init__(self, copies: nn.ModuleList) -> None:
        super().__init__()
        self.copies = copies

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([stage(maps) for stage in self.copies], dim=1)


def staged(backbone: nn.Module) -> nn.Sequential:
    """`backbone` without its pooling: normalised images `(N, 3, H, W)` -> the last feature map `(N, dim, h, w)`.

    Its children, by name, are the stages in the order of depth: "stem", "stage1", ...; each gives a map. Parameters are shared with
    `backbone`, not copied, and the mean of the last map over positions is what `backbone` gives. `backbone` is one of
    `build_backbone` or `backbone_of`.
    """
    stem: list[nn.Module]
    stages: list[nn.Module]
    if isinstance(backbone, ResNetSmall):
        stem, stages = [backbone.stem], list(backbone.blocks)
    elif isinstance(backbone, Branched):
        parts = dict(backbone.trunk.named_children())
        if "blocks" in parts:
            stem, stages = [parts["stem"]], list(parts["blocks"].children())
        else:
            stem, stages = _torchvision(parts)
        stages = [*stages, _Side(backbone.stages)]
    else:
        stem, stages = _torchvision(dict(backbone.named_children()))
    named = {"stem": nn.Sequential(*stem)} | {f"stage{i}": stage for i, stage in enumerate(stages, start=1)}
    return nn.Sequential(OrderedDict(named))


def _torchvision(parts: dict[str, nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """What comes before the residual stages of a torchvision ResNet, and these."""
    stem = [parts[name] for name in ("conv1", "bn1", "relu", "maxpool")]
    return stem, [part for name, part in parts.items() if name.startswith("layer")]
