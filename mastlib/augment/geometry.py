"""Augmentations that choose or move whole pixels of the frame, and the resampling that neighbours share.

Each is an affine map of coordinates; in one pass, the matrices of several are multiplied.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.kernels import kernel, on_rows
from mastlib.augment.ops import Op, Range, check_range, resident, uniform
from mastlib.errors import check_float, check_int, refuse

WHOLE_FRAME = torch.tensor([0.5, 0.5, 1.0, 1.0])  # (y_c, x_c, h, w)


class Geometry(Op):
    """An augmentation that is an affine map of image coordinates, x in [-1, 1] left to right, y top to bottom."""

    size: tuple[int, int] | None = None  # (height, width) of the output; None = that of the input
    outside = "border"  # what is read beyond the frame: its "border" repeated, or "zeros"

    @abstractmethod
    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        """(N, 3, 3): where in the input (x, y, 1) each point (x, y, 1) of the output is looked up; `aspect`: height / width."""

    def box(self, params: Tensor) -> Tensor:
        """(N, 4): the part (y_c, x_c, h, w) of the input, in fractions, whose pixels may be read."""
        return resident(WHOLE_FRAME, params.device).expand(len(params), 4)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return resample([self], images, [params])

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
        # The largest central box (h, w) within `ratio`, in fractions.
        self.central = torch.tensor([min(1.0, self.aspect / self.ratio[0]), min(1.0, self.ratio[1] / self.aspect)])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        area = uniform((n, self.tries), *self.scale, generator)
        log_ratio = uniform((n, self.tries), math.log(self.ratio[0]), math.log(self.ratio[1]), generator)
        relative = log_ratio.exp() / self.aspect  # the box's ratio in fractions of the frame
        sides = torch.stack([(area / relative).sqrt(), (area * relative).sqrt()], dim=2)  # (n, tries, 2): h, w
        fits = (sides <= 1).all(dim=2)
        first = fits.int().argmax(dim=1)  # the first try that fits
        found = fits.any(dim=1, keepdim=True)
        side = torch.where(
            found, sides[torch.arange(n, device=sides.device), first], resident(self.central, sides.device)
        )
        place = torch.where(found, uniform((n, 2), 0.0, 1.0, generator), 0.5)
        return torch.cat([side / 2 + place * (1 - side), side], dim=1)

    def ranges(self) -> tuple[Range, ...]:
        """From the narrowest and the lowest box, with the centres that these can have, to the whole frame."""
        low, high = (ratio / self.aspect for ratio in self.ratio)  # of the box, in fractions of the frame
        h = min(1.0, math.sqrt(self.scale[0] / high), 1 / low)
        w = min(1.0, math.sqrt(self.scale[0] * low), high)
        centres = Range("y_c", "of height", h / 2, 1 - h / 2), Range("x_c", "of width", w / 2, 1 - w / 2)
        return *centres, Range("h", "of height", h, 1.0), Range("w", "of width", w, 1.0)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        y, x, h, w = params.unbind(1)
        return affine([[w, 0, 2 * x - 1], [0, h, 2 * y - 1]], params)

    def box(self, params: Tensor) -> Tensor:
        return params


class HorizontalFlip(Geometry):
    """Left and right exchanged: 1 if flipped, else 0. Source: SimCLR (Chen et al., ICML 2020), appendix A."""

    name = "flip"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1 - 2 * params[:, 0], 0, 0], [0, 1, 0]], params)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return images.flip(3)  # exact, where the general resampling rounds


class VerticalFlip(Geometry):
    """Top and bottom exchanged: 1 if flipped, else 0."""

    name = "vertical_flip"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, 0], [0, 1 - 2 * params[:, 0], 0]], params)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        return images.flip(2)  # exact, where the general resampling rounds


class Rot90(Geometry):
    """Quarter turns counter-clockwise, 0 to 3, of square images: InputError for others.

    Drawn evenly from 1, 2 and 3 where applied; `p` = 3/4 makes all four alike. Source: AugSelf (Lee et al., NeurIPS 2021),
    rotation as a fourfold classification.
    """

    name = "rot90"
    identity = torch.zeros(1)

    def __init__(self, p: float = 0.75) -> None:
        super().__init__(p)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        device = generator.device if generator is not None else None
        return torch.randint(1, 4, (n, 1), generator=generator, device=device).float()

    def ranges(self) -> tuple[Range, ...]:
        return (Range("turns", "quarters", 0, 3, whole=True),)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        check_square(aspect)
        angle = params[:, 0] * (math.pi / 2)
        cos, sin = angle.cos().round_(), angle.sin().round_()
        return affine([[cos, -sin, 0], [sin, cos, 0]], params)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        check_square(images.shape[2] / images.shape[3])
        turned = images.clone()
        for quarters in (1, 2, 3):
            turned = on_rows(turned, params[:, 0] == quarters, partial(torch.rot90, k=quarters, dims=(2, 3)))
        return turned


def check_square(aspect: float) -> None:
    """InputError unless height / width is 1."""
    if aspect != 1:
        raise refuse("rot90's images", f"height / width = {aspect:g}", "square images")


def affine(rows: Sequence[Sequence[Tensor | float]], params: Tensor) -> Tensor:
    """The matrices (N, 3, 3) whose first two rows hold these entries, each a number or a tensor (N,)."""
    matrix = torch.eye(3, device=params.device).repeat(len(params), 1, 1)
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrix[:, i, j] = entry
    return matrix


def warp(ops: Sequence[Geometry], images: Tensor, params: Sequence[Tensor]) -> Tensor:
    """`images`, which may be overwritten, under `ops` in order, in one pass; only the first may be a crop."""
    height, width = ops[0].size or images.shape[2:]

    def change(chosen: Tensor, *rows: Tensor) -> Tensor:
        return ops[0].transform(chosen, rows[0]) if len(ops) == 1 else resample(ops, chosen, rows)

    if len(images) == 0:
        return images.new_zeros(0, 3, height, width)
    if images.shape[2:] != (height, width):
        return change(images, *params)
    active = torch.stack([op.active(row) for op, row in zip(ops, params, strict=True)]).any(dim=0)
    return on_rows(images, active, change, *params)


def resample(ops: Sequence[Geometry], images: Tensor, params: Sequence[Tensor]) -> Tensor:
    """`images` (N, 3, H, W) looked up bilinearly where `ops` in order put each output pixel's centre: (N, 3, *size).

    Output coordinates pass the last op first: input point = A_1 A_2 ... A_m (output point). A point is then moved to the
    nearest one between the centres of the outermost pixels of the first op's box, so that nothing outside the box
    bleeds in (torchvision: crop, then resize with repeated borders).
    """
    height, width = ops[0].size or images.shape[2:]
    matrix = ops[0].matrix(params[0], images.shape[2] / images.shape[3])
    for op, row in zip(ops[1:], params[1:], strict=True):
        matrix = matrix @ op.matrix(row, height / width)
    y, x, h, w = ops[0].box(params[0]).unbind(1)
    reach = torch.stack([w - 1 / images.shape[3], h - 1 / images.shape[2]], dim=1).clamp_(min=0)  # of a thin box: 0
    centre = torch.stack([2 * x - 1, 2 * y - 1], dim=1)
    grid = points(matrix, centre - reach, centre + reach, height, width).permute(0, 2, 3, 1)
    # "border" also catches the rounding of a box that ends at the frame.
    return functional.grid_sample(images, grid, padding_mode=ops[0].outside, align_corners=False)


@kernel
def points(matrix: Tensor, low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel's centre is looked up: `matrix` (N, 3, 3) times it, within [low, high] (N, 2) each.

    (N, 2, height, width): x and y, from -1 to 1 over the frame.
    """
    x = (2 * torch.arange(width, device=matrix.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=matrix.device) + 1) / height - 1
    found = []
    for i in range(2):
        by_x, by_y, shift = (matrix[:, i, j, None, None] for j in range(3))  # (N, 1, 1)
        point = by_x * x + (by_y * y[:, None] + shift)
        found.append(point.clamp(low[:, i, None, None], high[:, i, None, None]))
    return torch.stack(found, dim=1)
