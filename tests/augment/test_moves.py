"""Rotation, shears and translations, quarter turns and the vertical flip, against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import (
    HorizontalFlip,
    Op,
    Pipeline,
    RandomResizedCrop,
    Rot90,
    Rotate,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    VerticalFlip,
)
from mastlib.errors import InputError

SIZES = [(32, 32), (17, 23), (40, 9), (1, 5), (1, 1)]
BILINEAR = InterpolationMode.BILINEAR


def noise(n: int, height: int, width: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def affine(image: Tensor, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
    """torchvision's affine map about the top left corner, whose shear is an angle in degrees."""
    degrees = [math.degrees(math.atan(s)) for s in shear]
    return tv.affine(
        image, angle=0.0, translate=list(translate), scale=1.0, shear=degrees, interpolation=BILINEAR, center=[0.0, 0.0]
    )


REFERENCES = {
    "rotate": (Rotate(), [-180.0, -27.0, 0.0, 3.0, 45.0, 90.0], lambda x, v: tv.rotate(x, v, interpolation=BILINEAR)),
    "shear_x": (ShearX(), [-0.9, -0.27, 0.0, 0.03, 0.27, 0.9], lambda x, v: affine(x, shear=(v, 0))),
    "shear_y": (ShearY(), [-0.9, -0.27, 0.0, 0.03, 0.27, 0.9], lambda x, v: affine(x, shear=(0, v))),
    "translate_x": (TranslateX(), [-1.0, -0.27, 0.0, 0.03, 0.27, 0.5], lambda x, v: affine(x, (v * x.shape[2], 0))),
    "translate_y": (TranslateY(), [-1.0, -0.27, 0.0, 0.03, 0.27, 0.5], lambda x, v: affine(x, (0, v * x.shape[1]))),
}


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", list(REFERENCES))
def test_moves_equal_torchvision(name: str, height: int, width: int) -> None:
    op, rows, reference = REFERENCES[name]
    images = noise(len(rows), height, width)
    got = op.apply(images, torch.tensor(rows)[:, None])
    for image, row, view in zip(images, rows, got, strict=True):
        expected = reference(image, row) if row else image
        assert (view - expected).abs().max() < 1e-3, row


def test_directions() -> None:
    """Right, down, counter-clockwise: said once in words, so that a sign lost in the reference shows."""
    dot = torch.zeros(1, 3, 9, 9)
    dot[:, :, 4, 6] = 1  # right of the centre
    assert TranslateX().apply(dot, torch.tensor([[1 / 9]]))[0, 0, 4, 7] > 0.99
    assert TranslateY().apply(dot, torch.tensor([[1 / 9]]))[0, 0, 5, 6] > 0.99
    assert Rotate().apply(dot, torch.tensor([[90.0]]))[0, 0, 2, 4] > 0.99
    assert Rot90().apply(dot, torch.tensor([[1.0]]))[0, 0, 2, 4] == 1
    column = torch.zeros(1, 3, 9, 9)
    column[:, :, :, 4] = 1
    sheared = ShearX().apply(column, torch.tensor([[0.5]]))[0, 0]
    assert sheared[1].argmax() > sheared[7].argmax()  # read further right below: what is there moves left


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_vertical_flip_equals_torchvision_bit_for_bit(height: int, width: int) -> None:
    images = noise(3, height, width)
    got = VerticalFlip().apply(images, torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(got, torch.stack([images[0].flip(1), images[1], tv.vertical_flip(images[2])]))


@pytest.mark.parametrize("side", [1, 8, 13])
def test_quarter_turns_equal_rot90_bit_for_bit(side: int) -> None:
    images = noise(5, side, side)
    got = Rot90().apply(images, torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0])[:, None])
    assert torch.equal(got, torch.stack([x.rot90(k, (1, 2)) for x, k in zip(images, (0, 1, 2, 3, 1), strict=True)]))


def test_quarter_turns_of_other_than_square_images_are_refused() -> None:
    with pytest.raises(InputError, match="square"):
        Rot90().apply(noise(1, 8, 9), torch.ones(1, 1))
    with pytest.raises(InputError, match="square"):  # the crop's shape counts, not the source's
        Pipeline([RandomResizedCrop((8, 9)), Rot90(p=1)]).views(noise(1, 8, 8))
    assert Pipeline([RandomResizedCrop(8), Rot90(p=1)]).views(noise(1, 8, 9)).images.shape == (2, 1, 3, 8, 8)


def test_crop_flips_and_quarter_turns_in_one_pass_equal_one_after_the_other() -> None:
    pipeline = Pipeline([RandomResizedCrop(16), HorizontalFlip(), Rot90(), VerticalFlip(0.5), Rotate(), ShearX()])
    images = noise(12, 20, 20)
    params, _ = pipeline.sample(12, torch.Generator().manual_seed(0))
    expected = images
    for op in pipeline.ops:
        expected = op.apply(expected, params[op.name])
    assert (pipeline.apply(images, params) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "op", [*(op for op, *_ in REFERENCES.values()), Rot90(), VerticalFlip()], ids=lambda op: op.name
)
def test_identity_is_bit_for_bit_and_samples_are_real_changes_of_both_signs(op: Op) -> None:
    images = noise(6, 12, 12)
    assert torch.equal(op.apply(images, op.identity.expand(6, 1)), images)
    drawn = op.sample(4000, torch.Generator().manual_seed(0))
    assert (drawn != op.identity).all()
    if op.name in REFERENCES:
        low, high = op.strength
        assert (drawn > 0).float().mean() == pytest.approx(0.5, abs=0.05)
        assert low <= drawn.abs().min() < 1.1 * low and 0.95 * high < drawn.abs().max() <= high
    for n in (0, 1):
        assert op.apply(images[:n], op.sample(n)).shape == (n, 3, 12, 12)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Rotate, {"strength": (10.0, 200.0)}),
        (Rotate, {"strength": (20.0, 10.0)}),
        (ShearX, {"strength": (0.0, 0.0)}),
        (TranslateX, {"strength": (0.1, 1.5)}),
        (TranslateY, {"strength": 0.1}),
        (Rot90, {"p": -0.5}),
    ],
)
def test_bad_moves_are_refused(kind: type, arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=kind.name) as error:
        kind(**arguments)
    assert "\n" not in str(error.value)
