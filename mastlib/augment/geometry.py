"""Augmentations that move pixels. Neighbours in a pipeline share one resampling: their matrices are multiplied."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.ops import Op, check_range, on_rows, uniform
from mastlib.errors import check_float, check_int, refuse

WHOLE_FRAME = torch.tensor([0.5, 0.5, 1.0, 1.0])  # (y_c, x_c, h, w)


class Geometry(Op):
    """An augmentation that is an affine map of image coordinates, x in [-1, 1] left to right, y top to bottom."""

    size: tuple[int, int] | None = None  # (height, width) of the output; None = that of the input

    @abstractmethod
    def matrix(self, params: Tensor) -> Tensor:
        """(N, 3, 3): where in the input (x, y, 1) each point (x, y, 1) of the output is looked up."""

    def box(self, params: Tensor) -> Tensor:
        """(N, 4): the part (y_c, x_c, h, w) of the input, in fractions, whose pixels may be read."""
        return WHOLE_FRAME.to(params.device).expand(len(params), 4)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = self.size or images.shape[2:]
        return resample(images, self.matrix(params), self.box(params), (height, width))

    def run(self, images: Tensor, params: Tensor) -> Tensor:
        return warp([self], images, [params])


class RandomResizedCrop(Geometry):
    """A box of the image, resized to `size`: (y_c, x_c, h, w), its centre and sides in fractions of the source image.

    Area U(scale) of the image's, width/height ratio exp(U(log ratio)), ten tries to fit, else the largest central box
    within `ratio`; the place is uniform. Boxes are not rounded to whole pixels. Bilinear without antialiasing, reading
    only pixels of the box. `size`: pixels, an int or (height, width). `scale` in (0, 1]. `aspect`: width/height of the
    images to come (1 = square), which `sample` must know because it sees none.
    Raises InputError for a range that is reversed or out of bounds. Source: Szegedy et al., CVPR 2015, section 6;
    torchvision's RandomResizedCrop.
    """

    name = "crop"
    identity = WHOLE_FRAME
    tries = 10

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        p: float = 1.0,
        aspect: float = 1.0,
    ) -> None:
        super().__init__(p)
        sides = size if isinstance(size, tuple) else (size, size)
        if len(sides) != 2:
            raise refuse("crop.size", size, "an integer or a pair (height, width)")
        self.size = check_int("crop.size", sides[0], 1), check_int("crop.size", sides[1], 1)
        self.scale = check_range("crop.scale", scale, 1e-6, 1.0)
        self.ratio = check_range("crop.ratio", ratio, 1e-3, 1e3)
        self.aspect = check_float("crop.aspect", aspect, 1e-3, 1e3)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        area = uniform((n, self.tries), *self.scale, generator)
        log_ratio = uniform((n, self.tries), math.log(self.ratio[0]), math.log(self.ratio[1]), generator)
        relative = log_ratio.exp() / self.aspect  # the box's ratio in fractions of the frame
        sides = torch.stack([(area / relative).sqrt(), (area * relative).sqrt()], dim=2)  # (n, tries, 2): h, w
        fits = (sides <= 1).all(dim=2)
        first = fits.int().argmax(dim=1)  # the first try that fits
        central = sides.new_tensor([min(1.0, self.aspect / self.ratio[0]), min(1.0, self.ratio[1] / self.aspect)])
        found = fits.any(dim=1, keepdim=True)
        side = torch.where(found, sides[torch.arange(n, device=sides.device), first], central)
        place = torch.where(found, uniform((n, 2), 0.0, 1.0, generator), 0.5)
        return torch.cat([side / 2 + place * (1 - side), side], dim=1)

    def matrix(self, params: Tensor) -> Tensor:
        y, x, h, w = params.unbind(1)
        return affine([[w, 0, 2 * x - 1], [0, h, 2 * y - 1]], params)

    def box(self, params: Tensor) -> Tensor:
        return params


class HorizontalFlip(Geometry):
    """Left and right exchanged: 1 if flipped, else 0."""

    name = "flip"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)

    def matrix(self, params: Tensor) -> Tensor:
        return affine([[1 - 2 * params[:, 0], 0, 0], [0, 1, 0]], params)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return images.flip(3)  # exact, where the general resampling rounds


def affine(rows: Sequence[Sequence[Tensor | float]], params: Tensor) -> Tensor:
    """The matrices (N, 3, 3) whose first two rows hold these entries, each a number or a tensor (N,)."""
    matrix = torch.eye(3, device=params.device).repeat(len(params), 1, 1)
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrix[:, i, j] = entry
    return matrix


def warp(ops: Sequence[Geometry], images: Tensor, params: Sequence[Tensor]) -> Tensor:
    """`images` under `ops` in order, in one resampling; only the first op may be a crop, whose box is the source's.

    Output coordinates pass the last op first: input point = A_1 A_2 ... A_m (output point).
    """
    height, width = ops[0].size or images.shape[2:]
    if len(images) == 0:
        return images.new_zeros(0, 3, height, width)

    def change(chosen: Tensor, *rows: Tensor) -> Tensor:
        if len(ops) == 1:
            return ops[0].transform(chosen, rows[0])
        matrix = ops[0].matrix(rows[0])
        for op, row in zip(ops[1:], rows[1:], strict=True):
            matrix = matrix @ op.matrix(row)
        return resample(chosen, matrix, ops[0].box(rows[0]), (height, width))

    resized = images.shape[2:] != (height, width)
    active = torch.stack([op.active(row) for op, row in zip(ops, params, strict=True)]).any(dim=0)
    return on_rows(images, active | resized, change, *params)


def resample(images: Tensor, matrix: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear look-up of `images` (N, 3, H, W) at `matrix` (N, 3, 3) times each output pixel's centre: (N, 3, *size).

    A point is first moved to the nearest one between the centres of the outermost pixels of `box` (N, 4), so that
    nothing outside the box bleeds in (torchvision: crop, then resize with repeated borders).
    """
    height, width = size
    x = (2 * torch.arange(width, device=images.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=images.device) + 1) / height - 1
    by_x, by_y, shift = (matrix[:, :2, i, None, None] for i in range(3))  # (N, 2, 1, 1): x and y are the channels
    grid = by_x * x + (by_y * y[:, None] + shift)  # (N, 2, height, width)
    pixel = torch.tensor([1 / images.shape[3], 1 / images.shape[2]], device=images.device)
    centre = 2 * box[:, [1, 0]] - 1
    reach = (box[:, [3, 2]] - pixel).clamp_(min=0)  # a box thinner than a pixel reads its centre line
    grid.clamp_((centre - reach)[:, :, None, None], (centre + reach)[:, :, None, None])
    # "border" also catches the rounding of a box that ends at the frame; the last clamp that of the interpolation.
    grid = grid.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
