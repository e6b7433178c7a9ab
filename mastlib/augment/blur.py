"""Augmentations that filter an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.ops import Op, check_range, uniform
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

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        size = self.kernel_size or default_kernel_size(min(height, width))
        radius = size // 2
        if radius >= min(height, width):
            raise refuse("blur.kernel_size", size, f"less than twice the shorter side, here {min(height, width)}")
        offset = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.softmax(-(offset**2) / (2 * params**2), dim=1)  # (n, size); softmax also divides by the sum
        kernel = kernel.repeat_interleave(channels, dim=0)
        # Every image has a kernel of its own, so the batch becomes the channels of one image, each a group.
        padded = functional.pad(images, [radius] * 4, mode="reflect").view(1, n * channels, height + size - 1, -1)
        padded = functional.conv2d(padded, kernel.view(-1, 1, size, 1), groups=n * channels)
        blurred = functional.conv2d(padded, kernel.view(-1, 1, 1, size), groups=n * channels)
        return blurred.view(n, channels, height, width).clamp_(0, 1)  # rounding only


def default_kernel_size(side: int) -> int:
    """A tenth of `side` pixels to the nearest odd number, at least 3."""
    return max(3, 2 * (side // 20) + 1)
