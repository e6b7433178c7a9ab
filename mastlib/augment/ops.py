"""What an augmentation is: a name, a probability, an identity, and two separate steps, sample and apply.

A new augmentation is one small class: set `name` and `identity`, write `sample` (how its parameters are drawn) and
`transform` (what they do to a batch), and, if it has a strength, `ranges` (what its parameters are called and how far they
go). Everything else (which images it is applied to, pairings, descriptors, audits, sliders) follows from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mastlib.augment.kernels import on_rows
from mastlib.errors import check_float, refuse

ROUNDING = 1e-5  # how far beyond [0, 1] an interpolation done elsewhere may have gone


@dataclass(frozen=True)
class Range:
    """How far one parameter goes: nothing that is drawn lies outside [low, high]; `whole`: integers, the identity among them."""

    name: str
    unit: str
    low: float
    high: float
    whole: bool = False


class Op(ABC):
    """One augmentation with explicit parameters, a row per image, in the units AugSelf and CASSLE describe views in.

    `p` in [0, 1] is the probability that an image is changed at all; where it is not, its row holds `identity` (p,).
    Raises InputError where `p` is out of range. Source: AugSelf (Lee et al., NeurIPS 2021) and CASSLE, whose omega these are.
    """

    name: str
    identity: Tensor

    def __init__(self, p: float = 1.0) -> None:
        self.p = check_float(f"{self.name}.p", p, 0.0, 1.0)

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Parameters (n, p) for `n` images that are changed, on the generator's device; `p` plays no part here."""

    @abstractmethod
    def transform(self, images: Tensor, params: Tensor) -> Tensor:
        """Every one of `images` (N, 3, H, W), float32 in [0, 1], changed as its row of `params` (N, p) says.

        `images` may be overwritten; the result may stray from [0, 1] by rounding.
        """

    def ranges(self) -> tuple[Range, ...]:
        """A Range for each of the p parameters; as it stands here, that of an augmentation without a strength."""
        return (Range("applied", "0 or 1", 0, 1, whole=True),)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """`images` (N, 3, H, W), float in [0, 1] or uint8, under `params` (N, p): float32 in [0, 1]; deterministic.

        Images whose row is the identity come back bit for bit. Raises InputError where a shape or range is wrong.
        """
        check_images(images)
        params = check_params(self, images, params)
        return self.run(to_float(images.clone()), params).clamp_(0, 1)

    def run(self, images: Tensor, params: Tensor) -> Tensor:
        """`transform` in the rows that `params` (N, p) changes; `images` (N, 3, H, W) float32 may be overwritten."""
        return on_rows(images, self.active(params), self.transform, params)

    def active(self, params: Tensor) -> Tensor:
        """Which rows of `params` (N, p) differ from the identity: (N,) bool."""
        return (params != resident(self.identity, params.device)).any(dim=1)


def resident(constant: Tensor, device: torch.device) -> Tensor:
    """`constant` on `device`, moved there once only: each copy makes the host wait for the device."""
    return constant if constant.device == device else _moved(constant, device)


@cache
def _moved(constant: Tensor, device: torch.device) -> Tensor:
    return constant.to(device)


def check_images(images: Tensor) -> None:
    """Raises InputError unless `images` are (N, 3, H, W), uint8 or float in [0, 1].

    Values that are not on the CPU are taken on trust: to look at them, the host would have to wait.
    """
    accepted = "a tensor (N, 3, H, W), float in [0, 1] or uint8"
    if not isinstance(images, Tensor):
        raise refuse("images", type(images).__name__, accepted)
    right_type = images.dtype == torch.uint8 or images.is_floating_point()
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:] or not right_type:
        raise refuse("images", f"{tuple(images.shape)} {images.dtype}", accepted)
    if images.is_floating_point() and images.device.type == "cpu" and len(images):
        low, high = (bound.item() for bound in torch.aminmax(images))  # one pass, and NaN comes through as NaN
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise refuse("images", f"values from {low:g} to {high:g}", accepted)


def to_float(images: Tensor) -> Tensor:
    """`images` that passed `check_images`, as float32 in [0, 1]; uint8 is divided by 255."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def check_params(op: Op, images: Tensor, params: Tensor) -> Tensor:
    """`params` on the images' device if they are (N, p) for these images, else InputError."""
    shape = (len(images), len(op.identity))
    if not isinstance(params, Tensor) or params.shape != shape:
        found = tuple(params.shape) if isinstance(params, Tensor) else params
        raise refuse(f"params[{op.name!r}]", found, f"a tensor of shape {shape}")
    return params.to(images.device, torch.float32)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """U(low, high) of `shape` on the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(shape, generator=generator, device=device).mul_(high - low).add_(low)


def check_range(name: str, value: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """`value` if it is a pair (a, b) with low <= a <= b <= high, else InputError."""
    try:
        first, last = value
    except (TypeError, ValueError):
        raise refuse(name, value, "a pair (low, high)") from None
    pair = check_float(f"{name}[0]", first, low, high), check_float(f"{name}[1]", last, low, high)
    if pair[0] > pair[1]:
        raise refuse(name, value, "a pair (low, high) with low <= high")
    return pair


def random_sign(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """`values` with a fair sign each, drawn from `generator`."""
    return torch.where(uniform(tuple(values.shape), 0.0, 1.0, generator) < 0.5, -values, values)


def check_strength(name: str, value: tuple[float, float], most: float) -> tuple[float, float]:
    """A range of absolute strengths, not beginning at 0 alone: else nothing would change. Raises InputError."""
    pair = check_range(name, value, 0.0, most)
    check_float(f"{name}[1]", pair[1], 1e-6, most)
    return pair
