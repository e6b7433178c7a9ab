from __future__ import annotations

import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torch import Tensor
from torchvision.transforms import RandomResizedCrop as Reference
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import HorizontalFlip, Pipeline, RandomResizedCrop
from mastlib.augment.geometry import Geometry, affine
from mastlib.errors import InputError

SIZES = [(32, 32), (17, 23), (40, 9), (1, 5)]


def noise(n: int, height: int, width: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) in pixels: inner boxes, the four corners, one pixel, a row, a column, everything."""
    h, w = (height + 1) // 2, (width + 1) // 2
    corners = [(0, 0, h, w), (0, width - w, h, w), (height - h, 0, h, w), (height - h, width - w, h, w)]
    inner = (height // 4, width // 3, h, (width + 2) // 3)
    thin = [(height // 2, width // 2, 1, 1), (0, 0, 1, width), (0, 0, height, 1)]
    return [*corners, inner, *thin, (0, 0, height, width)]


def descriptor(pixels: list[tuple[int, int, int, int]], height: int, width: int) -> Tensor:
    top, left, h, w = torch.tensor(pixels, dtype=torch.float64).T
    rows = [(top + h / 2) / height, (left + w / 2) / width, h / height, w / width]
    return torch.stack(rows, dim=1).float()


@pytest.mark.parametrize("output", [(32, 32), (7, 12), (50, 33), (1, 1)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_equals_torchvision(height: int, width: int, output: tuple[int, int]) -> None:
    pixels = boxes(height, width)
    images = noise(len(pixels), height, width)
    got = RandomResizedCrop(output).apply(images, descriptor(pixels, height, width))
    for image, box, view in zip(images, pixels, got, strict=True):
        expected = tv.resized_crop(image, *box, size=list(output), antialias=False)
        assert (view - expected).abs().max() < 1e-4


def test_enlarging_crop_equals_antialiased_torchvision_too() -> None:
    images, pixels = noise(2, 32, 32), [(3, 5, 20, 25), (0, 0, 16, 32)]
    got = RandomResizedCrop(32).apply(images, descriptor(pixels, 32, 32))
    for image, box, view in zip(images, pixels, got, strict=True):
        assert (view - tv.resized_crop(image, *box, size=[32, 32], antialias=True)).abs().max() < 1e-4


def test_nothing_outside_the_box_bleeds_in() -> None:
    images = torch.ones(1, 3, 24, 24)
    images[:, :, 6:18, 8:20] = 0.25
    view = RandomResizedCrop(40).apply(images, descriptor([(6, 8, 12, 12)], 24, 24))
    assert torch.allclose(view, torch.tensor(0.25), atol=1e-4)


def test_box_between_pixels_shifts_continuously() -> None:
    """A linear ramp read through a half-pixel shift is the ramp plus half a step."""
    ramp = torch.linspace(0, 1, 33).expand(1, 3, 33, 33)
    whole, half = descriptor([(0, 4, 33, 16), (0, 5, 33, 16)], 33, 33), torch.zeros(1, 4)
    half[0, 1] = 0.5 / 33
    crop = RandomResizedCrop((33, 16))
    difference = crop.apply(ramp, whole[:1] + half) - crop.apply(ramp, whole[:1])
    assert torch.allclose(difference, torch.tensor(0.5 / 32), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_flip_equals_torchvision_bit_for_bit(height: int, width: int) -> None:
    images = noise(4, height, width)
    flipped = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    expected = [tv.horizontal_flip(image) if f else image for image, f in zip(images, flipped, strict=True)]
    assert torch.equal(HorizontalFlip().apply(images, flipped), torch.stack(expected))


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n: int) -> None:
    images = noise(n, 20, 20)
    crop, flip = RandomResizedCrop(12), HorizontalFlip()
    assert crop.apply(images, crop.sample(n)).shape == (n, 3, 12, 12)
    assert flip.apply(images, flip.sample(n)).shape == (n, 3, 20, 20)
    assert Pipeline([crop, flip]).views(images).images.shape == (2, n, 3, 12, 12)


class VerticalFlip(Geometry):
    """An augmentation that somebody adds: a name, an identity, a sampler and a matrix."""

    name = "upside_down"
    identity = torch.zeros(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones(n, 1)

    def matrix(self, params: Tensor, aspect: float) -> Tensor:
        return affine([[1, 0, 0], [0, 1 - 2 * params[:, 0], 0]], params)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)])
def test_neighbouring_geometry_in_one_pass_equals_one_after_the_other(order: tuple[int, ...]) -> None:
    ops = [RandomResizedCrop((14, 19)), HorizontalFlip(), VerticalFlip()]
    pipeline = Pipeline([ops[i] for i in order])
    images = noise(5, 30, 21)
    params, _ = pipeline.sample(5, torch.Generator().manual_seed(0))
    params["flip"][::2] = 0
    expected = images
    for op in pipeline.ops:
        expected = op.apply(expected, params[op.name])
    assert (pipeline.apply(images, params) - expected).abs().max() < 1e-4


def test_sampled_boxes_have_torchvisions_distribution() -> None:
    """On an image so large that torchvision's whole pixels do not show."""
    n, side = 3000, 10_000
    torch.manual_seed(1)
    blank = torch.empty(1, 1).expand(3, side, side)
    reference = [Reference.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    expected = descriptor(reference, side, side).double()
    got = RandomResizedCrop(32).sample(n, torch.Generator().manual_seed(2)).double()
    for value in (
        lambda d: d[:, 2] * d[:, 3],  # area
        lambda d: d[:, 3] / d[:, 2],  # ratio
        lambda d: (d[:, 0] - d[:, 2] / 2) / (1 - d[:, 2] + 1e-9),  # place, from 0 (top) to 1 (bottom)
        lambda d: (d[:, 1] - d[:, 3] / 2) / (1 - d[:, 3] + 1e-9),
    ):
        assert ks_2samp(value(got), value(expected)).pvalue > 1e-3


def test_sampled_boxes_are_within_their_ranges() -> None:
    y, x, h, w = RandomResizedCrop(32, scale=(0.3, 0.9), ratio=(0.5, 1.5)).sample(20_000).double().unbind(1)
    area, ratio = h * w, w / h
    assert 0.3 - 1e-6 <= area.min() < 0.31 and 0.85 < area.max() <= 0.9 + 1e-6
    assert 0.5 - 1e-5 <= ratio.min() < 0.51 and 1.45 < ratio.max() <= 1.5 + 1e-5
    assert (y - h / 2).min() > -1e-6 and (y + h / 2).max() < 1 + 1e-6
    assert (x - w / 2).min() > -1e-6 and (x + w / 2).max() < 1 + 1e-6


def test_area_is_uniform_and_log_ratio_too_where_every_box_fits() -> None:
    _, _, h, w = RandomResizedCrop(32, scale=(0.2, 0.75)).sample(5000, torch.Generator().manual_seed(3)).unbind(1)
    assert kstest(h * w, "uniform", args=(0.2, 0.55)).pvalue > 1e-3
    log_four_thirds = torch.tensor(4 / 3).log().item()
    assert kstest((w / h).log(), "uniform", args=(-log_four_thirds, 2 * log_four_thirds)).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(300, 900), (900, 300), (800, 900)])
def test_where_no_box_fits_the_largest_central_one_is_taken(height: int, width: int) -> None:
    """The range 1..1 of area fits only in an image whose ratio is drawn exactly."""
    reference = Reference.get_params(torch.empty(3, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
    expected = descriptor([reference], height, width)
    crop = RandomResizedCrop(32, scale=(1.0, 1.0), aspect=width / height)
    assert torch.allclose(crop.sample(3), expected.expand(3, 4), atol=2 / 300)


def test_fallback_is_as_frequent_as_torchvisions() -> None:
    n, blank, scale = 2000, torch.empty(1, 1).expand(3, 5000, 5000), (0.97, 1.0)
    torch.manual_seed(4)
    whole = sum(Reference.get_params(blank, list(scale), [3 / 4, 4 / 3]) == (0, 0, 5000, 5000) for _ in range(n)) / n
    sampled = RandomResizedCrop(32, scale=scale).sample(n, torch.Generator().manual_seed(5))
    got = (sampled == RandomResizedCrop.identity).all(dim=1).float().mean().item()
    assert abs(got - whole) < 5 * (2 * whole * (1 - whole) / n) ** 0.5
    assert 0.1 < whole < 0.9


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": 32.0},
        {"size": (32, 32, 3)},
        {"size": 32, "scale": (1.0, 0.2)},
        {"size": 32, "scale": (0.2, 1.5)},
        {"size": 32, "scale": (0.0, 1.0)},
        {"size": 32, "scale": 0.2},
        {"size": 32, "ratio": (4 / 3, 3 / 4)},
        {"size": 32, "p": 1.1},
        {"size": 32, "p": -0.1},
        {"size": 32, "aspect": 0},
    ],
)
def test_bad_crops_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match="crop") as error:
        RandomResizedCrop(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
