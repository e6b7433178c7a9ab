"""Backbones: torchvision's ResNets with a choice of stem, and one small ResNet for two CPU cores."""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from mastlib.errors import check_choice, check_int

PIXEL_MEAN, PIXEL_STD = (
    0.5,
    0.25,
)  # one grey for every data set, so that a backbone's input does not depend on the pre-training images

BACKBONES = ("resnet_small", "resnet18", "resnet34", "resnet50")
STEMS = ("standard", "small", "patch")


def normalise(images: Tensor) -> Tensor:
    """Images `(N, 3, H, W)`, uint8 or float in [0, 1], as the backbones expect them: (x - 0.5) / 0.25 in float."""
    if images.dtype == torch.uint8:
        images = images.float() / 255
    return (images - PIXEL_MEAN) / PIXEL_STD


def _stem(name: str, width: int) -> nn.Conv2d:
    """The first convolution: 7x7 stride 2 (He et al. 2016), 3x3 for small images, or patches of 4x4 pixels."""
    kernel, stride, padding = {"standard": (7, 2, 3), "small": (3, 1, 1), "patch": (4, 4, 0)}[name]
    return nn.Conv2d(3, width, kernel, stride=stride, padding=padding, bias=False)


class ResNetSmall(nn.Module):
    """A ResNet of three bottleneck blocks, w, 2w and 2w channels wide inside, 4w, 8w and 8w outside; output `(N, 8w)`.

    The block is torchvision's Bottleneck (He et al. 2016, section 4.1): most of its layers mix channels pixel by pixel, which is
    where a run of a few hundred steps learns colours. Its last batch-norm starts at one: starting at zero, as the larger
    networks do, costs so short a run most of what it has time to learn.
    """

    def __init__(self, width: int = 32, stem: str = "patch") -> None:
        super().__init__()
        self.dim = 8 * width
        pool = nn.MaxPool2d(3, 2, 1) if stem == "standard" else nn.Identity()
        self.stem = nn.Sequential(_stem(stem, 4 * width), nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True), pool)
        shortcut = nn.Sequential(nn.Conv2d(4 * width, self.dim, 1, stride=2, bias=False), nn.BatchNorm2d(self.dim))
        self.blocks = nn.Sequential(
            Bottleneck(4 * width, width),
            Bottleneck(4 * width, 2 * width, stride=2, downsample=shortcut),
            Bottleneck(self.dim, 2 * width),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images)).mean(dim=(2, 3))


class Branched(nn.Module):
    """A backbone whose last residual stage is there `copies` times behind one trunk; output `(N, copies d)`, copy h in slice h.

    The last stage is `layer4` of a torchvision ResNet (d = 512 or 2048) and the last block of resnet_small (d = 8w); each
    copy's output is averaged over positions. `trunk` keeps the names of the network's parts, `stages.h` is copy h. All
    copies start with the weights of the one stage, so before training each slice is what the plain backbone gives.
    Source: LooC++ (Xiao et al. 2021); see `methods.looc`.
    """

    def __init__(self, net: nn.Module, copies: int) -> None:
        super().__init__()
        parts = dict(net.named_children())
        if isinstance(net, ResNetSmall):
            *blocks, stage = net.blocks
            parts["blocks"] = nn.Sequential(*blocks)
        else:
            stage = parts["layer4"]
            parts = {name: part for name, part in parts.items() if name not in ("layer4", "avgpool", "fc")}
        self.trunk = nn.Sequential()
        for name, part in parts.items():
            self.trunk.add_module(name, part)
        self.stages = nn.ModuleList(copy.deepcopy(stage) for _ in range(copies))
        self.dim = copies * int(net.dim)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        shared = self.trunk(images)
        return torch.cat([stage(shared).mean(dim=(2, 3)) for stage in self.stages], dim=1)


def build_backbone(name: str, width: int = 32, stem: str = "patch") -> nn.Module:
    """A backbone `(N, 3, H, W) -> (N, dim)` with attribute `dim`; normalised images in (see `normalise`).

    `name` is one of BACKBONES; `width` is w of resnet_small (the others have the published
    widths); `stem` one of STEMS: "standard" (7x7/2 and max-pool), "small" (3x3), "patch" (4x4/4). A torchvision ResNet
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
