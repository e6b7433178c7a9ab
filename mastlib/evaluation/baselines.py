"""Backbones of which theory says what they know: `(N, 3, H, W)` normalised images -> `(N, D)`, to check tasks and probes with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mastlib.evaluation.information import colour_histograms
from mastlib.models.backbones import PIXEL_MEAN, PIXEL_STD, normalise

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the grey that the augmentations use
CELLS = 8  # along a side, of RawPixels


def grey(images: Tensor) -> Tensor:
    """Images `(N, 3, H, W)` uint8 without colour: luma on all three channels."""
    luma = sum(weight * images[:, c].float() for c, weight in enumerate(LUMA))
    return torch.as_tensor(luma).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def pixels(images: Tensor) -> Tensor:
    """The uint8 images that `images` are, normalised; what lies between two levels is rounded."""
    return ((images * PIXEL_STD + PIXEL_MEAN) * 255).round().clamp(0, 255).to(torch.uint8)


class RawPixels(nn.Module):
    """The mean colours of 8 x 8 cells, `(N, 192)`: knows coarsely what colour is where, and nothing that takes more than a sum."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, CELLS).flatten(1)


class ColourHistogram(nn.Module):
    """`information.colour_histograms`, `(N, 512)`: knows how much there is of each colour, and no place."""

    def forward(self, images: Tensor) -> Tensor:
        return colour_histograms(pixels(images))


class _Wrapped(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


class GreyOnly(_Wrapped):
    """`backbone` `(N, D)` of the image's luma, in 256 levels: images that differ in nothing else have equal features."""

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.backbone(normalise(grey(pixels(images))))
        return found


class FlipAveraged(_Wrapped):
    """The mean of `backbone` `(N, D)` over the image and its mirror image: equal for both, so it cannot tell left from right."""

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = (self.backbone(images) + self.backbone(images.flip(3))) / 2
        return found


class TurnAveraged(_Wrapped):
    """The mean of `backbone` `(N, D)` over the image's four quarter turns: equal for all up to rounding. Square images."""

    def forward(self, images: Tensor) -> Tensor:
        turned = [self.backbone(images.rot90(quarters, (2, 3))) for quarters in range(4)]
        return torch.stack(turned).mean(dim=0)
