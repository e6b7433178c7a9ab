"""Augmentations that move the picture within its frame and leave black behind."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mastlib.augment.geometry import Geometry, affine
from mastlib.augment.ops import Range, check_strength, random_sign, resident, uniform

ANYWHERE = torch.tensor([0.5, 0.5, math.inf, math.inf])  # (y_c, x_c, h, w)


class Move(Geometry):
    """A map that leaves the frame: what comes from outside is black, and its edge is blended in, as by torchvision.

    One signed parameter, its size drawn evenly from `strength` (low, high) and its sign by a fair coin; 0 where not applied.
    """

    identity = torch.zeros(1)
    outside = "zeros"
    most = 1.0  # largest strength accepted
    parameter, unit = "shift", ""

    def __init__(self, strength: tuple[float, float], p: float = 0.5) -> None:
        super().__init__(p)
        self.strength = check_strength(f"{self.name}.strength", strength, self.most)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return random_sign(uniform((n, 1), *self.strength, generator), generator)

    def ranges(self) -> tuple[Range, ...]:
        return (Range(self.parameter, self.unit, -self.strength[1], self.strength[1]),)

    def box(self, params: Tensor) -> Tensor:
        return resident(ANYWHERE, params.device).expand(len(params), 4)


class Rotate(Move):
    """Turned about the centre: degrees, counter-clockwise as seen. Source: CLSA (Wang and Qi, 2021), code: 3 to 27."""

    name = "rotate"
    parameter, unit = "angle", "degrees"
    most = 180.0

    def __init__(self, strength: tuple[float, float] = (3.0, 27.0), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        angle = torch.deg2rad(params[:, 0])
        cos, sin = angle.cos(), angle.sin()
        return affine([[cos, -sin * aspect, 0], [sin / aspect, cos, 0]], params)


class ShearX(Move):
    """Rows read s pixels further to the right for each pixel further down, so that a positive s leans the image to the left.

    The top edge stays where it is. Source: CLSA (Wang and Qi, 2021), code: .03 to .27; PIL's affine transform (1, s, 0, 0, 1, 0).
    """

    name = "shear_x"
    parameter, unit = "shear", "pixels per row"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        shear = params[:, 0] * aspect
        return affine([[1, shear, shear], [0, 1, 0]], params)


class ShearY(Move):
    """Columns read s pixels further down for each pixel further to the right; the left edge stays. Source: as ShearX."""

    name = "shear_y"
    parameter, unit = "shear", "pixels per column"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        shear = params[:, 0] / aspect
        return affine([[1, 0, 0], [shear, 1, shear]], params)


class TranslateX(Move):
    """Moved to the right by a fraction of the width. Source: CLSA (Wang and Qi, 2021), code: .03 to .27."""

    name = "translate_x"
    parameter, unit = "shift", "of width"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, -2 * params[:, 0]], [0, 1, 0]], params)


class TranslateY(Move):
    """Moved down by a fraction of the height. Source: as TranslateX."""

    name = "translate_y"
    parameter, unit = "shift", "of height"

    def __init__(self, strength: tuple[float, float] = (0.03, 0.27), p: float = 0.5) -> None:
        super().__init__(strength, p)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, 0], [0, 1, -2 * params[:, 0]]], params)
