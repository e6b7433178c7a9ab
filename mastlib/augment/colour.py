"""Augmentations that change colours and leave every pixel in place."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from mastlib.augment.kernels import kernel, on_rows
from mastlib.augment.ops import Op, Range, resident, uniform
from mastlib.errors import check_float, refuse

SUB_OPS = ("brightness", "contrast", "saturation", "hue")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = torch.tensor(list(permutations(range(4))))  # (24, 4): row 0 is brightness, contrast, saturation, hue
HUE_TURN = (ORDERS == HUE).int().argmax(dim=1)  # (24,): how many sub-ops come before the hue shift
BLENDS = ORDERS[ORDERS != HUE].view(24, 3)  # (24, 3): the other three, in order


class ColorJitter(Op):
    """Brightness, contrast, saturation and hue in a random order of their own for each image.

    Parameters (d_b, d_c, d_s, d_h, order): d in [-.5, .5] is (factor - 1) / (factor_max - factor_min), for hue
    shift / (shift_max - shift_min); `order` in 0..23 is a row of ORDERS. Factors U(1 - strength, 1 + strength), hue
    shift U(-hue, hue) in turns. With gray g = .2989 R + .587 G + .114 B, each clamped to [0, 1]:
    brightness b x;  contrast c x + (1 - c) mean(g);  saturation s x + (1 - s) g;  hue: H + shift in HSV.
    `brightness`, `contrast`, `saturation` in [0, 1], `hue` in [0, .5], not all 0; else InputError.
    Source: torchvision's ColorJitter (blend to gray, not HSV's S as in kornia 0.4, and not one order per batch);
    descriptor: AugSelf (Lee et al., NeurIPS 2021).
    """

    name = "color"
    identity = torch.zeros(5)

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, p: float = 0.8) -> None:
        super().__init__(p)
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        checked = [check_float(f"color.{k}", v, 0.0, 0.5 if k == "hue" else 1.0) for k, v in strengths.items()]
        if not any(checked):
            raise refuse("color strengths", tuple(checked), "at least one above 0")
        self.widths = 2 * torch.tensor(checked)  # (4,): factor_max - factor_min

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        offsets = uniform((n, 4), -0.5, 0.5, generator)
        offsets *= self.widths.to(offsets.device) > 0  # a sub-op of strength 0 has no parameter to tell
        order = torch.randint(24, (n, 1), generator=generator, device=offsets.device)
        return torch.cat([offsets, order.to(offsets.dtype)], dim=1)

    def ranges(self) -> tuple[Range, ...]:
        ends = [0.5 if width else 0.0 for width in self.widths.tolist()]
        offsets = [Range(name, "of its range", -end, end) for name, end in zip(SUB_OPS, ends, strict=True)]
        return *offsets, Range("order", "row of ORDERS", 0, 23, whole=True)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return self._jitter(images, params, torch.ones(len(params), dtype=torch.bool, device=params.device))

    def run(self, images: Tensor, params: Tensor) -> Tensor:
        return self._jitter(images, params, self.active(params))

    def _jitter(self, images: Tensor, params: Tensor, rows: Tensor) -> Tensor:
        # Three of the four sub-ops are blends x -> f x + (1 - f) t, so one pass serves whichever of them each image is
        # at; its hue turns before blend 0, 1 or 2, or last.
        order = params[:, 4].long()
        turn = resident(HUE_TURN, order.device)[order]
        blends = resident(BLENDS, order.device)[order]
        change = params[:, :4] * resident(self.widths, order.device)  # factor - 1 three times, shift in turns
        for position in range(4):
            images = on_rows(images, rows & (turn == position), shift_hue, change[:, HUE])
            if position < 3:
                kind = blends[:, position, None]
                factor = 1 + change.gather(1, kind)
                of_gray, of_mean = (1 - factor) * (kind == SATURATION), (1 - factor) * (kind == CONTRAST)
                images = on_rows(images, rows, blend, torch.cat([factor, of_gray, of_mean], dim=1))
        return images


class Grayscale(Op):
    """All three channels replaced by .2989 R + .587 G + .114 B (ITU-R BT.601 luma): 1 if applied, else 0.

    Source: SimCLR (Chen et al., ICML 2020), appendix A.
    """

    name = "grayscale"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        return gray(images)[:, None].repeat(1, 3, 1, 1)


def gray(images: Tensor) -> Tensor:
    """(N, H, W): .2989 R + .587 G + .114 B, torchvision's digits of BT.601."""
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


@kernel
def blend(images: Tensor, weights: Tensor) -> Tensor:
    """f x + a g + b m, clamped to [0, 1]: `images`, their gray g and its mean m; `weights` (N, 3) hold f, a, b."""
    own, of_gray, of_mean = (weights[:, i, None, None, None] for i in range(3))
    luma = gray(images)[:, None]
    return (own * images).add_(of_gray * luma + of_mean * luma.mean(dim=(2, 3), keepdim=True)).clamp_(0, 1)


@kernel
def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """`images` (N, 3, H, W) with `shift` (N,) turns added to the hue of HSV; saturation and value stay.

    With V = max, C = max - min and h the hue, channel R, G, B has its peak at h = 0, 1/3, 2/3 of a turn and is
    V - clamp(6 C d - C, 0, C), d the distance from the peak round the circle, in turns: HSV's six cases in one line.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    circle = 6 * chroma  # everything is measured in units of chroma, so nothing is divided and gray stays gray
    green_or_blue = torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    hue = torch.where(value == red, green - blue, green_or_blue).addcmul_(circle, shift[:, None, None])
    channels = []
    for peak in range(3):
        distance = (hue - 2 * peak * chroma).abs_()  # at most 8/6 of the circle
        distance = torch.minimum(distance, (circle - distance).abs_())
        channels.append(value - torch.minimum(distance.sub_(chroma).clamp_(min=0), chroma))
    return torch.stack(channels, dim=1)
