"""Augmentations that filter an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.kernels import kernel
from mastlib.augment.ops import Op, Range, check_range, uniform
from mastlib.errors import check_int, refuse


class GaussianBlur(Op):
    """Convolution with a Gaussian of standard deviation sigma, a row and a column at a time: sigma in pixels, or 0.

    sigma ~ U(sigma) pixels of the output image, one kernel an image, w_i ~ exp(-i^2 / (2 sigma^2)), sum w = 1; borders
    are reflected without repeating the outermost pixel. `kernel_size`: odd, in pixels; None = a tenth of the shorter
    side to the nearest odd number, at least 3 (224: 23, 96: 9, 32: 3). Raises InputError for an even or too large
    kernel and for a range that is reversed or not above 0. Source: SimCLR (Chen et al., ICML 2020), appendix A.
    """

    name = "blur"
    identity = torch.zeros(1)

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, kernel_size: int | None = None) -> None:
        super().__init__(p)
        self.sigma = check_range("blur.sigma", sigma, 1e-3, 1e3)
        if kernel_size is not None and check_int("blur.kernel_size", kernel_size, 1) % 2 == 0:
            raise refuse("blur.kernel_size", kernel_size, "an odd integer of at least 1")
        self.kernel_size = kernel_size

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform((n, 1), *self.sigma, generator)

    def ranges(self) -> tuple[Range, ...]:
        return (Range("sigma", "pixels", *self.sigma),)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size = self.kernel_size or default_kernel_size(min(height, width))
        radius = size // 2
        if radius >= min(height, width):
            raise refuse("blur.kernel_size", size, f"less than twice the shorter side, here {min(height, width)}")
        offset = torch.arange(-radius, radius + 1, device=images.device)
        weights = torch.softmax(-(offset**2) / (2 * params**2), dim=1)[:, radius:]  # softmax also divides by the sum
        padded = functional.pad(images, [radius] * 4, mode="reflect")
        return along_columns(along_rows(padded, weights, radius), weights, radius)


@kernel
def along_rows(images: Tensor, weights: Tensor, radius: int) -> Tensor:
    """w_0 x_0 + sum_i w_i (x_-i + x_i) in each row of `images` (N, 3, H, W + 2 radius); `weights` (N, radius + 1)."""
    width = images.shape[3] - 2 * radius
    weights = weights[:, :, None, None, None]
    total = images[..., radius : radius + width] * weights[:, 0]
    for i in range(1, radius + 1):
        sides = images[..., radius - i : radius - i + width] + images[..., radius + i : radius + i + width]
        total = total.addcmul_(sides, weights[:, i])
    return total


@kernel
def along_columns(images: Tensor, weights: Tensor, radius: int) -> Tensor:
    """As `along_rows`, in each column of `images` (N, 3, H + 2 radius, W)."""
    height = images.shape[2] - 2 * radius
    weights = weights[:, :, None, None, None]
    total = images[..., radius : radius + height, :] * weights[:, 0]
    for i in range(1, radius + 1):
        sides = images[..., radius - i : radius - i + height, :] + images[..., radius + i : radius + i + height, :]
        total = total.addcmul_(sides, weights[:, i])
    return total


class Sharpness(Op):
    """Blend with a smoothed image, f x + (1 - f) smooth(x): the factor minus one, f - 1 in [-1, ...), 0 where not applied.

    smooth is the 3x3 mean that weighs the middle five times, [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels
    keep their values, and images less than three pixels wide or high are left alone. f ~ U(factor): below 1 softens,
    above 1 sharpens. Source: CLSA (Wang and Qi, 2021), code: .14 to .86; PIL's ImageEnhance.Sharpness.
    """

    name = "sharpness"
    identity = torch.zeros(1)

    def __init__(self, factor: tuple[float, float] = (0.14, 0.86), p: float = 0.5) -> None:
        super().__init__(p)
        self.factor = check_range("sharpness.factor", factor, 0.0, 10.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform((n, 1), *self.factor, generator) - 1

    def ranges(self) -> tuple[Range, ...]:
        return (Range("factor - 1", "", self.factor[0] - 1, self.factor[1] - 1),)

    @staticmethod
    @kernel
    def transform(images: Tensor, params: Tensor) -> Tensor:
        if min(images.shape[2:]) < 3:
            return images
        three = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
        middle = images[:, :, 1:-1, 1:-1]
        smooth = (three[:, :, :-2] + three[:, :, 1:-1] + three[:, :, 2:] + 4 * middle) / 13
        return (images + functional.pad(params[:, :, None, None] * (middle - smooth), [1] * 4)).clamp_(0, 1)


def default_kernel_size(side: int) -> int:
    """A tenth of `side` pixels to the nearest odd number, at least 3."""
    return max(3, 2 * (side // 20) + 1)
