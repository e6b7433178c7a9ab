"""The synthetic transforms that invariance is measured under: each with its group and an even grid of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.blur import GaussianBlur, Sharpness
from mastlib.augment.colour import Grayscale, blend, shift_hue
from mastlib.augment.geometry import HorizontalFlip, RandomResizedCrop, VerticalFlip
from mastlib.augment.levels import Equalize, Invert, Posterize
from mastlib.augment.moves import Rotate
from mastlib.augment.ops import Op, check_images, to_float
from mastlib.errors import check_int, refuse

STUDY_SIDE = 224  # pixels: the images whose pixels the study's translation, blur and deformation are given in
VALUES = 16  # of the study's 256: two for each side of a crop, four for each axis of a translation or shear
BENDING = 0.3  # displacement of a deformation relative to its length scale, root mean square
DRAWS = 8  # of a deformation's length scale before it repeats

Parameters = tuple[float, ...]


@dataclass(frozen=True)
class Transform:
    """All of `images` `(N, 3, S, S)` changed alike by one row of parameters, which `parameters` names with their units.

    `group`: "spatial" moves pixels, "appearance" changes their values. `identity`: the row that changes nothing, which a
    grid may hold; None where there is none. Deterministic.
    """

    name: str
    group: str
    parameters: tuple[str, ...]
    identity: Parameters | None
    rows: Callable[[int, int], Sequence[Sequence[float]]]
    change: Callable[[Tensor, Sequence[float]], Tensor]

    def grid(self, size: int, values: int = VALUES) -> list[Parameters]:
        """Rows of parameters for images of `size` pixels.

        `values` in 16..256, and as many rows: but with d parameters the largest n^d that is not more, at 256 the study's grid;
        two for a switch, off and on; seven for posterize.
        """
        check_int("image_size", size, 8)
        return [tuple(map(float, row)) for row in self.rows(size, check_int("values", values, VALUES, 256))]

    def is_identity(self, row: Parameters) -> bool:
        """Whether `row` leaves every image as it is."""
        return self.identity is not None and np.allclose(row, self.identity, rtol=0, atol=1e-9)

    def __call__(self, images: Tensor, row: Parameters) -> Tensor:
        """`images` `(N, 3, S, S)`, uint8 or float in [0, 1], under `row`: float32 in [0, 1]; the identity bit for bit.

        Raises InputError for other images, and for a row of another length.
        """
        check_images(images)
        if images.shape[2] != images.shape[3]:
            raise refuse("images", tuple(images.shape), "square ones")
        if len(row) != len(self.parameters):
            raise refuse(f"{self.name}'s parameters", row, f"({', '.join(self.parameters)})")
        images = to_float(images.clone())
        return images if self.is_identity(row) else self.change(images, row).clamp_(0, 1)


def _even(low: float, high: float) -> Callable[[int, int], Sequence[Sequence[float]]]:
    """`values` numbers from `low` to `high`, both among them."""
    return lambda size, values: np.linspace(low, high, values)[:, None].tolist()


def _pixels(low: float, high: float) -> Callable[[int, int], Sequence[Sequence[float]]]:
    """As `_even`, in pixels of the study's images, scaled to `size`."""
    return lambda size, values: (np.linspace(low, high, values)[:, None] * size / STUDY_SIDE).tolist()


def _circle(turn: float, start: float) -> Callable[[int, int], Sequence[Sequence[float]]]:
    """`values` steps round the circle from `start`; the end, which is the start again, is not repeated."""
    return lambda size, values: (start + turn * np.arange(values) / values)[:, None].tolist()


def _switch(size: int, values: int) -> Sequence[Sequence[float]]:
    return [[0.0], [1.0]]


def _product(*axes: tuple[float, float], pixels: bool = False) -> Callable[[int, int], Sequence[Sequence[float]]]:
    """Every combination of n numbers evenly spaced on each of the d `axes` (first, last), n^d at most `values`."""

    def rows(size: int, values: int) -> Sequence[Sequence[float]]:
        n = max(n for n in range(1, values + 1) if n ** len(axes) <= values)
        scale = size / STUDY_SIDE if pixels else 1.0
        spaced = np.meshgrid(*(np.linspace(*axis, n) * scale for axis in axes), indexing="ij")
        return np.stack([axis.ravel() for axis in spaced], axis=1).tolist()

    return rows


def _deformations(size: int, values: int) -> Sequence[Sequence[float]]:
    """Eight length scales from 10 to 50 of the study's pixels, over and over, each time with another seed."""
    scales = np.linspace(10, 50, DRAWS) * size / STUDY_SIDE
    return [[scales[seed % DRAWS], seed] for seed in range(values)]


def _each(images: Tensor, row: Sequence[float]) -> Tensor:
    """`row` for every one of `images`, `(N, p)`."""
    return torch.tensor([row], device=images.device, dtype=torch.float32).expand(len(images), -1)


def _op(op: Op, offset: float = 0.0) -> Callable[[Tensor, Sequence[float]], Tensor]:
    """An augmentation given the same parameters, plus `offset`, for every image."""
    return lambda images, row: op.run(images, _each(images, row) + offset)


def _crop(images: Tensor, row: Sequence[float]) -> Tensor:
    """The box from (top, left) of sides (height, width), fractions of the image, resized to the image's size."""
    top, left, height, width = row
    box = [top + height / 2, left + width / 2, height, width]
    return RandomResizedCrop(images.shape[-1]).run(images, _each(images, box))


def _affine(images: Tensor, rows: Sequence[Sequence[float]], outside: str = "zeros") -> Tensor:
    """Looked up at the 2 x 3 matrix `rows` times (x, y, 1); x, y from -1 to 1 over the image, y down."""
    grid = functional.affine_grid(
        torch.tensor([rows], dtype=torch.float32), [1, 3, *images.shape[2:]], align_corners=False
    )
    return _look_up(images, grid, outside)


def _look_up(images: Tensor, grid: Tensor, outside: str) -> Tensor:
    grid = grid.to(images.device).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, padding_mode=outside, align_corners=False)


def _translate(images: Tensor, row: Sequence[float]) -> Tensor:
    """Moved by (right, down) pixels; the border's pixels are repeated.

    The study has a margin round its crop to move into view, so there nothing black comes in; where the background is plain,
    repeating the border is the same.
    """
    right, down = (2 * pixels / images.shape[-1] for pixels in row)
    return _affine(images, [[1, 0, -right], [0, 1, -down]], "border")


def _scale(images: Tensor, row: Sequence[float]) -> Tensor:
    """Zoomed about the centre; below 1 with black round it."""
    return _affine(images, [[1 / row[0], 0, 0], [0, 1 / row[0], 0]])


def _shear(images: Tensor, row: Sequence[float]) -> Tensor:
    """Sheared along x, then y, about the centre: tan of the angles in degrees, so half turns change nothing."""
    x, y = (math.tan(math.radians(angle)) for angle in row)
    return _affine(images, [[1 + x * y, x, 0], [y, 1, 0]])


def deformation(size: int, scale: float, seed: int) -> Tensor:
    """Displacement (right, down) of every pixel, `(size, size, 2)` in pixels: smooth noise, periodic, drawn from `seed`.

    White noise smoothed by a Gaussian of `scale` pixels, its mean removed, scaled to BENDING * `scale` root mean square. Our
    rule: at each length it bends as much, and hardly folds; noise of one strength would vanish where it is smoothed most.
    """
    noise = torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    f = torch.fft.fftfreq(size, dtype=torch.float64)
    kernel = torch.exp(-2 * (math.pi * scale) ** 2 * (f**2 + f[:, None] ** 2))
    kernel[0, 0] = 0  # the mean, which would be a translation
    field = torch.fft.ifft2(torch.fft.fft2(noise) * kernel).real
    field *= BENDING * scale / field.square().sum(dim=0).mean().sqrt()
    return field.permute(1, 2, 0).float()


def _deform(images: Tensor, row: Sequence[float]) -> Tensor:
    """Each pixel looked up as far off as `deformation` says; the border's pixels are repeated."""
    size = images.shape[-1]
    places = functional.affine_grid(torch.eye(2, 3)[None], [1, 3, size, size], align_corners=False)
    return _look_up(images, places + deformation(size, row[0], int(row[1])) * 2 / size, "border")


def _blended(to: int) -> Callable[[Tensor, Sequence[float]], Tensor]:
    """f x + (1 - f) t: t is 0 (`to` = 0: brightness), the image's gray (1: saturation) or its gray's mean (2: contrast)."""

    def change(images: Tensor, row: Sequence[float]) -> Tensor:
        return blend(images, _each(images, [row[0], *((1 - row[0]) * (to == i) for i in (1, 2))]))

    return change


def _hue(images: Tensor, row: Sequence[float]) -> Tensor:
    return shift_hue(images, _each(images, row)[:, 0])


def _spatial(
    name: str, parameters: tuple[str, ...], identity: Parameters | None, rows: Callable, change: Callable
) -> Transform:
    return Transform(name, "spatial", parameters, identity, rows, change)


def _appearance(name: str, parameter: str, identity: float, rows: Callable, change: Callable) -> Transform:
    return Transform(name, "appearance", (parameter,), (identity,), rows, change)


_ON = "1 where applied"
_BOX = ("top, of the height", "left, of the width", "height, of the height", "width, of the width")
_FACTOR = _even(0.25, 5)

#: All transforms by name, in the study's order. Source: Ericsson et al., BMVC 2022 (ssl-invariances), its code, with slips
#: mended: pixels are those of the image that the network sees, nothing is sheared by a degree besides, and a crop's corner is
#: a fraction of the image. Interpolation is bilinear; a deformation is our own.
TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        transform.name: transform
        for transform in (
            _spatial("rotation", ("degrees",), (0.0,), _circle(360, 0), _op(Rotate())),
            _spatial(
                "translation", ("pixels to the right", "pixels down"), (0.0, 0.0),
                _product((-16, 14), (-16, 14), pixels=True), _translate,
            ),
            _spatial("scale", ("factor",), (1.0,), _even(0.25, 2), _scale),
            _spatial("shear", ("degrees along x", "degrees along y"), (0.0, 0.0), _product((-160, 140), (-160, 140)), _shear),
            _spatial(
                "resized_crop", _BOX, (0.0, 0.0, 1.0, 1.0),
                _product((0, 0.25), (0, 0.25), (0.75, 0.25), (0.75, 0.25)), _crop,
            ),
            _spatial("h_flip", (_ON,), (0.0,), _switch, _op(HorizontalFlip())),
            _spatial("v_flip", (_ON,), (0.0,), _switch, _op(VerticalFlip())),
            _spatial("deform", ("length scale in pixels", "seed"), None, _deformations, _deform),
            _appearance("grayscale", _ON, 0, _switch, _op(Grayscale())),
            _appearance("invert", _ON, 0, _switch, _op(Invert())),
            _appearance("equalize", _ON, 0, _switch, _op(Equalize())),
            _appearance("brightness", "factor", 1, _FACTOR, _blended(0)),
            _appearance("contrast", "factor", 1, _FACTOR, _blended(2)),
            _appearance("saturation", "factor", 1, _FACTOR, _blended(1)),
            _appearance("hue", "turns", 0, _circle(1, -0.5), _hue),
            _appearance("blur", "sigma in pixels", 0, _pixels(0, 20), _op(GaussianBlur())),
            _appearance("sharpness", "factor", 1, _even(1, 30), _op(Sharpness(), offset=-1)),
            _appearance("posterize", "bits", 8, lambda size, values: [[bits] for bits in range(1, 8)], _op(Posterize())),
        )
    }
)  # fmt: skip
