"""Augmentations that move pixels. Neighbours in a pipeline share one resampling: their matrices are multiplied."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.ops import Op, check_range, check_strength, on_rows, random_sign, uniform
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


class Move(Geometry):
    """A map that leaves the frame: what comes from outside is black, and its edge is blended in, as by torchvision.

    One signed parameter, its size drawn evenly from `strength` (low, high) and its sign by a fair coin; 0 where not applied.
    """

    identity = torch.zeros(1)
    most = 1.0  # largest strength accepted

    def __init__(self, strength: tuple[float, float], p: float = 0.5) -> None:
        super().__init__(p)
        self.strength = check_strength(f"{self.name}.strength", strength, self.most)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return random_sign(uniform((n, 1), *self.strength, generator), generator)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return look_up(images, points(self.matrix_for(params, height / width), (height, width)), "zeros")

    def matrix(self, params: Tensor) -> Tensor:
        return self.matrix_for(params, 1.0)

    @abstractmethod
    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        """`matrix` for images whose height is `aspect` times their width."""


class Rotate(Move):
    """Turned about the centre: degrees, counter-clockwise as seen. Source: CLSA (Wang and Qi, 2021), code: 3 to 27."""

    name = "rotate"
    most = 180.0

    def __init__(self, strength: tuple[float, float] = (3.0, 27.0), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        angle = torch.deg2rad(params[:, 0])
        cos, sin = angle.cos(), angle.sin()
        return affine([[cos, -sin * aspect, 0], [sin / aspect, cos, 0]], params)


class ShearX(Move):
    """Rows read s pixels further to the right for each pixel further down, so that a positive s leans the image to the left.

    The top edge stays where it is. Source: CLSA (Wang and Qi, 2021), code: .03 to .27; PIL's affine transform (1, s, 0, 0, 1, 0).
    """

    name = "shear_x"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        shear = params[:, 0] * aspect
        return affine([[1, shear, shear], [0, 1, 0]], params)


class ShearY(Move):
    """Columns read s pixels further down for each pixel further to the right; the left edge stays. Source: as ShearX."""

    name = "shear_y"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        shear = params[:, 0] / aspect
        return affine([[1, 0, 0], [shear, 1, shear]], params)


class TranslateX(Move):
    """Moved to the right by a fraction of the width. Source: CLSA (Wang and Qi, 2021), code: .03 to .27."""

    name = "translate_x"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, -2 * params[:, 0]], [0, 1, 0]], params)


class TranslateY(Move):
    """Moved down by a fraction of the height. Source: as TranslateX."""

    name = "translate_y"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix_for(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, 0], [0, 1, -2 * params[:, 0]]], params)


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


class VerticalFlip(Geometry):
    """Top and bottom exchanged: 1 if flipped, else 0."""

    name = "vertical_flip"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1, device=generator.device if generator is not None else None)

    def matrix(self, params: Tensor) -> Tensor:
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

    def matrix(self, params: Tensor) -> Tensor:
        turns = params[:, 0].long() % 4
        cos = torch.tensor([1.0, 0.0, -1.0, 0.0], device=params.device)[turns]
        sin = torch.tensor([0.0, 1.0, 0.0, -1.0], device=params.device)[turns]
        return affine([[cos, -sin, 0], [sin, cos, 0]], params)

    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        if images.shape[2] != images.shape[3]:
            raise refuse("rot90's images", f"{images.shape[2]} x {images.shape[3]} pixels", "square images")
        turned = images.clone()
        for quarters in (1, 2, 3):
            rows = params[:, 0] == quarters
            turned[rows] = images[rows].rot90(quarters, (2, 3))
        return turned


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
    grid = points(matrix, size)
    pixel = torch.tensor([1 / images.shape[3], 1 / images.shape[2]], device=images.device)
    centre = 2 * box[:, [1, 0]] - 1
    reach = (box[:, [3, 2]] - pixel).clamp_(min=0)  # a box thinner than a pixel reads its centre line
    grid.clamp_((centre - reach)[:, :, None, None], (centre + reach)[:, :, None, None])
    # "border" also catches the rounding of a box that ends at the frame.
    return look_up(images, grid, "border")


def points(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each output pixel's centre is looked up: `matrix` (N, 3, 3) times it, (N, 2, *size), x and y as channels."""
    height, width = size
    x = (2 * torch.arange(width, device=matrix.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=matrix.device) + 1) / height - 1
    by_x, by_y, shift = (matrix[:, :2, i, None, None] for i in range(3))  # (N, 2, 1, 1)
    return by_x * x + (by_y * y[:, None] + shift)


def look_up(images: Tensor, grid: Tensor, outside: str) -> Tensor:
    """`images` read bilinearly at `grid` (N, 2, H, W); `outside` the frame: "border" repeats it, "zeros" is black."""
    grid = grid.permute(0, 2, 3, 1)
    read = functional.grid_sample(images, grid, padding_mode=outside, align_corners=False)
    return read.clamp_(0, 1)  # of rounding only
