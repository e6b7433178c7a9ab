from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import GaussianBlur, Sharpness
from mastlib.augment.blur import default_kernel_size
from mastlib.errors import InputError


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 23), (25, 13)])
@pytest.mark.parametrize("kernel_size", [1, 3, 9, 23])
def test_blur_equals_torchvision(height: int, width: int, kernel_size: int) -> None:
    images = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(height))
    sigma = torch.tensor([0.03, 0.1, 0.0, 0.7, 2.0, 5.0])
    got = GaussianBlur(kernel_size=kernel_size).apply(images, sigma[:, None])
    for image, s, view in zip(images, sigma, got, strict=True):
        expected = tv.gaussian_blur(image, [kernel_size] * 2, [s.item()] * 2) if s else image
        assert (view - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("side", "expected"), [(224, 23), (96, 9), (64, 7), (32, 3), (8, 3)])
def test_default_kernel_is_a_tenth_of_the_shorter_side(side: int, expected: int) -> None:
    assert default_kernel_size(side) == expected
    images = torch.rand(1, 3, side, side + 40)
    got = GaussianBlur().apply(images, torch.ones(1, 1))
    assert (got - tv.gaussian_blur(images, [expected] * 2, [1.0] * 2)).abs().max() < 1e-4


def test_sigma_is_uniform() -> None:
    sigma = GaussianBlur(sigma=(0.1, 2.0)).sample(4000, torch.Generator().manual_seed(0))
    assert sigma.shape == (4000, 1)
    assert kstest(sigma[:, 0], "uniform", args=(0.1, 1.9)).pvalue > 1e-3


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n: int) -> None:
    assert GaussianBlur().apply(torch.rand(n, 3, 10, 11), torch.ones(n, 1)).shape == (n, 3, 10, 11)


@pytest.mark.parametrize(
    "arguments", [{"sigma": (2.0, 0.1)}, {"sigma": (0.0, 1.0)}, {"kernel_size": 4}, {"kernel_size": 0}, {"p": 2}]
)
def test_bad_blurs_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match="blur"):
        GaussianBlur(**arguments)  # type: ignore[arg-type]


def test_kernel_that_does_not_fit_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"blur.kernel_size = 23"):
        GaussianBlur(kernel_size=23).apply(torch.rand(1, 3, 11, 40), torch.ones(1, 1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 23), (3, 3), (2, 9), (9, 1)])
def test_sharpness_equals_torchvision(height: int, width: int) -> None:
    images = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(height))
    factors = [0.0, 0.14, 0.86, 1.0, 1.5, 8.0]
    before = images.clone()
    got = Sharpness(factor=(0.0, 10.0)).apply(images, torch.tensor(factors)[:, None] - 1)
    assert torch.equal(images, before) and torch.equal(got[3], images[3])  # a factor of 1 is the identity
    for image, factor, view in zip(images, factors, got, strict=True):
        assert (view - tv.adjust_sharpness(image, factor)).abs().max() < 1e-5


def test_sampled_sharpness_fills_its_range_and_bad_ranges_are_refused() -> None:
    drawn = Sharpness().sample(4000, torch.Generator().manual_seed(0))
    assert kstest(drawn[:, 0] + 1, "uniform", args=(0.14, 0.72)).pvalue > 1e-3
    for factor in ((0.86, 0.14), (-0.1, 0.5), 0.5):
        with pytest.raises(InputError, match="sharpness"):
            Sharpness(factor=factor)  # type: ignore[arg-type]
