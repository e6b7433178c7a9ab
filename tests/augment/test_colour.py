from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import ColorJitter, Grayscale
from mastlib.errors import InputError

STRENGTHS = (0.4, 0.5, 0.8, 0.1)
SUB_OPS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
ORDERS = list(permutations(range(4)))


def noise(n: int, height: int = 12, width: int = 15) -> Tensor:
    images = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(n))
    images[:, :, 0] = images[:, :1, 0]  # gray
    images[:, :, 1, :4], images[:, :, 1, 4:8] = 0, 1  # black, white
    images[:, 0, 2], images[:, 1, 3], images[:, 2, 4] = 1, 0, 1  # saturated
    images[:, 1, 5] = images[:, 0, 5]  # two channels share the maximum or the minimum
    return images


def reference(image: Tensor, params: Tensor, strengths: tuple[float, ...] = STRENGTHS) -> Tensor:
    """torchvision's sub-ops, one after the other, with the factors that the descriptor's definition gives."""
    *offsets, order = params.tolist()
    low = [max(0.0, 1 - s) for s in strengths[:3]]
    factors = [1 + d * (1 + s - a) for d, s, a in zip(offsets[:3], strengths[:3], low, strict=True)]
    factors.append(offsets[3] * 2 * strengths[3])
    for sub in ORDERS[int(order)]:
        image = SUB_OPS[sub](image, factors[sub])
    return image


def check(params: Tensor, strengths: tuple[float, ...] = STRENGTHS) -> None:
    images = noise(len(params))
    before = images.clone()
    got = ColorJitter(*strengths).apply(images, params)
    assert torch.equal(images, before)
    expected = torch.stack([reference(image, row, strengths) for image, row in zip(images, params, strict=True)])
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("order", range(24))
def test_jitter_equals_torchvision_in_every_order(order: int) -> None:
    offsets = torch.rand(6, 4, generator=torch.Generator().manual_seed(order)) - 0.5
    offsets[0], offsets[1] = 0.5, -0.5
    check(torch.cat([offsets, torch.full((6, 1), float(order))], dim=1))


def test_jitter_equals_torchvision_in_mixed_orders_and_sub_batches() -> None:
    jitter = ColorJitter(*STRENGTHS)
    params = jitter.sample(64, torch.Generator().manual_seed(0))
    params[::5] = jitter.identity
    check(params)


@pytest.mark.parametrize("strengths", [(1.0, 1.0, 1.0, 0.5), (0.4, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5)])
def test_jitter_equals_torchvision_at_the_ends_of_its_strengths(strengths: tuple[float, ...]) -> None:
    ends = torch.tensor([-0.5, 0.5])
    corners = torch.cartesian_prod(ends, ends, ends, ends)
    check(torch.cat([corners, torch.arange(16.0)[:, None]], dim=1), strengths)


def test_orders_matter() -> None:
    """Else the test of the orders could not fail."""
    params = torch.tensor([0.5, -0.5, 0.5, 0.5, 0.0]).repeat(24, 1)
    params[:, 4] = torch.arange(24)
    views = ColorJitter(*STRENGTHS).apply(noise(1).expand(24, -1, -1, -1), params)
    assert (views[:, None] - views[None]).abs().amax(dim=(2, 3, 4)).fill_diagonal_(1).gt(1e-3).float().mean() > 0.9


def test_sampled_descriptors_fill_their_range_in_every_order() -> None:
    n = 24_000
    params = ColorJitter(0.4, 0.4, 0.4, 0.1).sample(n, torch.Generator().manual_seed(1))
    offsets, order = params[:, :4], params[:, 4]
    assert offsets.min() >= -0.5 and offsets.max() <= 0.5
    assert torch.allclose(offsets.mean(0), torch.zeros(4), atol=5 * (1 / 12 / n) ** 0.5)
    assert torch.allclose(offsets.std(0), torch.full((4,), 12**-0.5), atol=0.005)
    counts = order.long().bincount(minlength=24)
    assert len(counts) == 24 and (counts - n / 24).abs().max() < 5 * (n / 24) ** 0.5


def test_sub_op_of_strength_zero_has_no_parameter() -> None:
    params = ColorJitter(0.4, 0.0, 0.4, 0.0).sample(50)
    assert (params[:, [1, 3]] == 0).all() and (params[:, [0, 2]] != 0).all()


@pytest.mark.parametrize("shape", [(0, 8, 8), (1, 8, 8), (5, 17, 23)])
def test_grayscale_equals_torchvision(shape: tuple[int, int, int]) -> None:
    n, height, width = shape
    images = noise(n, height, width)
    on = (torch.arange(n) % 2 == 0)[:, None].float()
    got = Grayscale().apply(images, on)
    assert got.shape == images.shape
    for image, row, view in zip(images, on, got, strict=True):
        expected = tv.rgb_to_grayscale(image, num_output_channels=3) if row else image
        assert (view - expected).abs().max() < 1e-5


@pytest.mark.parametrize("n", [0, 1])
def test_jitter_of_none_and_one(n: int) -> None:
    jitter = ColorJitter(*STRENGTHS)
    assert jitter.apply(noise(n), jitter.sample(n)).shape == (n, 3, 12, 15)


@pytest.mark.parametrize(
    ("strengths", "named"),
    [
        ((1.2, 0.4, 0.4, 0.1), "color.brightness"),
        ((0.4, -0.1, 0.4, 0.1), "color.contrast"),
        ((0.4, 0.4, "a", 0.1), "color.saturation"),
        ((0.4, 0.4, 0.4, 0.6), "color.hue"),
        ((0, 0, 0, 0), "color strengths"),
    ],
)
def test_bad_strengths_are_refused(strengths: tuple[float, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ColorJitter(*strengths)
