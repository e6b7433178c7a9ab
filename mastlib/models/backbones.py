"""Backbones: torchvision's ResNets with a choice of stem, and one small ResNet for two CPU cores."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from mastlib.errors import check_choice, check_int

PIXEL_MEAN, PIXEL_STD = (
    0.5,
    0.25,
)  # one grey for every data set, so that a backbone's input does not depend on the pre-training images

BACKBONES = ("resnet_small", "resnet18", "resnet34", "resnet50")
STEMS = ("standard", "small", "stride2")


def normalise(images: Tensor) -> Tensor:
    """Images `(N, 3, H, W)`, uint8 or float in [0, 1], as the backbones expect them: (x - 0.5) / 0.25 in float."""
    if images.dtype == torch.uint8:
        images = images.float() / 255
    return (images - PIXEL_MEAN) / PIXEL_STD


def _stem(name: str, width: int) -> nn.Conv2d:
    """The first convolution: 7x7 stride 2 (He et al. 2016), 3x3 for small images, or 3x3 stride 2 to halve the cost."""
    if name == "standard":
        return nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    return nn.Conv2d(3, width, 3, stride=2 if name == "stride2" else 1, padding=1, bias=False)


class ResNetSmall(nn.Module):
    """A ResNet of four stages with one basic block each, widths w, 2w, 4w, 8w; output `(N, 8w)`, average pooled.

    The block is torchvision's BasicBlock (He et al. 2016, section 3.3). Its last batch-norm starts at one: starting at zero, as
    the larger networks do, costs a run of a few hundred steps most of what it has time to learn.
    """

    def __init__(self, width: int = 32, stem: str = "stride2") -> None:
        super().__init__()
        self.dim = 8 * width
        pool = nn.MaxPool2d(3, 2, 1) if stem == "standard" else nn.Identity()
        self.stem = nn.Sequential(_stem(stem, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)
        stages, channels = [], width
        for stage in range(4):
            out, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = (
                nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
                if stride != 1
                else None
            )
            block = torchvision.models.resnet.BasicBlock(channels, out, stride, shortcut)
            stages.append(block)
            channels = out
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.stem(images)).mean(dim=(2, 3))


def build_backbone(name: str, width: int = 32, stem: str = "stride2") -> nn.Module:
    """A backbone `(N, 3, H, W) -> (N, dim)` with attribute `dim`; normalised images in (see `normalise`).

    `name` is one of BACKBONES; `width` are the channels of resnet_small's first stage (the others have the published
    widths); `stem` one of STEMS: "standard" (7x7/2 and max-pool), "small" (3x3), "stride2" (3x3/2). A torchvision ResNet
    keeps torchvision's parameter names, so its state loads there strictly once `fc` is left out. Raises InputError.
    """
    check_choice("backbone", name, BACKBONES)
    check_choice("stem", stem, STEMS)
    if name == "resnet_small":
        return ResNetSmall(check_int("width", width, 4, 256), stem)
    net = getattr(torchvision.models, name)(weights=None, zero_init_residual=True)
    net.dim = net.fc.in_features
    net.fc = nn.Identity()
    if stem != "standard":
        net.conv1 = _stem(stem, 64)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    return net
