from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import AutoContrast, Equalize, Invert, Op, Posterize, Solarize, SolarizeAdd
from mastlib.errors import InputError

SIZES = [(32, 32), (17, 23), (1, 7), (1, 1), (40, 30)]


def pictures(height: int, width: int) -> Tensor:
    """8-bit images in [0, 1]: noise, a narrow range, one value, one channel flat, two values, a ramp."""
    images = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    images[1] = 0.4 + 0.1 * images[1]
    images[2] = 0.25
    images[3, 1] = 0.7
    images[4] = (images[4] > 0.5).float()
    images[5] = torch.linspace(0, 1, height * width).view(height, width)
    return (images * 255).round() / 255


def check(op: Op, images: Tensor, rows: list[float], reference, tolerance: float = 1e-6) -> None:
    before, params = images.clone(), torch.tensor(rows)[:, None]
    got = op.apply(images, params)
    assert torch.equal(images, before)
    for image, row, view in zip(images, rows, got, strict=True):
        expected = image if row == op.identity.item() else reference(image, row)
        assert (view - expected).abs().max() <= tolerance, (op.name, row)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_autocontrast_equals_torchvision(height: int, width: int) -> None:
    check(AutoContrast(), pictures(height, width), [1, 1, 1, 1, 0, 1], lambda x, _: tv.autocontrast(x))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equalize_equals_torchvision(height: int, width: int) -> None:
    check(Equalize(), pictures(height, width), [1, 1, 1, 1, 1, 0], lambda x, _: tv.equalize(x))
    check(Equalize(), pictures(height, width), [0, 1, 0, 1, 1, 1], lambda x, _: tv.equalize(x))


def test_equalize_spreads_large_images_too() -> None:
    """Only with more than 255 pixels beside the top level does a channel change at all."""
    images = pictures(64, 48) ** 3
    check(Equalize(), images, [1.0] * 6, lambda x, _: tv.equalize(x))
    assert (Equalize().apply(images, torch.ones(6, 1)) - images)[0].abs().mean() > 0.1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_invert_equals_torchvision(height: int, width: int) -> None:
    check(Invert(), pictures(height, width), [1, 0, 1, 1, 0, 1], lambda x, _: tv.invert(x))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_posterize_equals_torchvision(height: int, width: int) -> None:
    images = pictures(height, width)
    check(Posterize(), images, [1, 2, 4, 5, 7, 8], lambda x, bits: tv.posterize(x, int(bits)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_solarize_equals_torchvision(height: int, width: int) -> None:
    images = pictures(height, width)
    rows = [0.0, 0.5, 0.25, 0.999, 1.0, 100 / 255]
    check(Solarize(), images, rows, lambda x, t: tv.solarize(x, torch.tensor(t).item()))


def test_a_value_at_the_threshold_is_inverted() -> None:
    """The border rule: at the threshold, not only above it."""
    got = Solarize().apply(torch.full((1, 3, 2, 2), 0.75), torch.tensor([[0.75]]))
    assert torch.equal(got, torch.full((1, 3, 2, 2), 0.25))


def test_solarize_add_raises_dark_values_only() -> None:
    images = pictures(16, 16)
    rows = torch.tensor([0.0, 0.1, 0.43, 1.0, 0.2, 0.3])[:, None]
    got = SolarizeAdd(addition=(0.0, 1.0)).apply(images, rows)
    for image, row, view in zip(images.double(), rows.double(), got, strict=True):
        expected = image.clone()
        expected[image < 0.5] = (image + row)[image < 0.5].clamp(max=1)
        assert (view - expected).abs().max() < 1e-6
    at = SolarizeAdd().apply(torch.full((1, 3, 1, 1), 0.5), torch.tensor([[0.2]]))
    assert torch.equal(at, torch.full((1, 3, 1, 1), 0.5))


@pytest.mark.parametrize("op", [AutoContrast(), Equalize(), Invert(), Posterize(), Solarize(), SolarizeAdd()])
def test_identity_is_bit_for_bit_and_batches_of_none_and_one_work(op: Op) -> None:
    images = pictures(9, 11) + torch.rand(6, 3, 9, 11) * 1e-3
    images = images.clamp(0, 1)
    assert torch.equal(op.apply(images, op.identity.expand(6, 1)), images)
    for n in (0, 1):
        assert op.apply(images[:n], op.sample(n)).shape == (n, 3, 9, 11)
    assert (op.apply(images, op.sample(6, torch.Generator().manual_seed(0))) != images).any()


def test_sampled_strengths_fill_their_ranges() -> None:
    draw = torch.Generator().manual_seed(0)
    bits = Posterize(bits=(4, 7)).sample(4000, draw)
    assert torch.unique(bits).tolist() == [4, 5, 6, 7] and (bits == 4).float().mean() == pytest.approx(0.25, abs=0.04)
    threshold = Solarize(threshold=(0.1, 0.9)).sample(4000, draw)
    assert 0.1 <= threshold.min() < 0.11 and 0.89 < threshold.max() <= 0.9 + 1e-6


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Posterize, {"bits": (7, 4)}), (Posterize, {"bits": (0, 4)}), (Posterize, {"bits": (4, 9)}), (Posterize, {"bits": 4}),
        (Posterize, {"bits": (4.5, 6)}), (Solarize, {"threshold": (0.5, 1.2)}), (Solarize, {"threshold": (0.5, 0.1)}),
        (SolarizeAdd, {"addition": (-0.1, 0.1)}), (Equalize, {"p": 1.5}),
    ],
)  # fmt: skip
def test_bad_levels_are_refused(kind: type, arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=kind.name) as error:
        kind(**arguments)
    assert "\n" not in str(error.value)
