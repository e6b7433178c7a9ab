"""What a run hands to tasks: the network that its spec names, built in one place for training and for evaluation."""

from __future__ import annotations

from torch import nn

from mastlib.augment.presets import get_pipeline
from mastlib.models.backbones import Branched, build_backbone
from mastlib.spec import RunSpec


def stages_of(spec: RunSpec) -> int:
    """Copies of the backbone's last residual stage: with `looc_stages` K + 1 for the preset's K augmentations, else 1."""
    if not spec.looc_stages:
        return 1
    return len(get_pipeline(spec.augmentations, spec.image_size, spec.without).names) + 1


def backbone_of(spec: RunSpec) -> nn.Module:
    """The backbone of `spec`, `(N, 3, H, W) -> (N, dim)`, weights drawn from torch's global generator.

    A run's weights "backbone" load into it strictly. With `looc_stages` it is a `Branched` one, which starts with the weights
    that the same generator gives the plain one. Raises InputError for what the preset does not have (`without`).
    """
    plain = build_backbone(spec.backbone, spec.width, spec.stem)
    return Branched(plain, stages_of(spec)) if spec.looc_stages else plain
