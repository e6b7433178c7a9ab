"""Every synthetic transform against torchvision, PIL or scipy, and the study's grids."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mastlib.errors import InputError
from mastlib.evaluation.transforms import BENDING, TRANSFORMS, deformation

BILINEAR = InterpolationMode.BILINEAR
SIZE = 32


def images(n: int = 3, size: int = SIZE) -> Tensor:
    """Smooth colours and noise, on the 256 levels of files."""
    g = torch.Generator().manual_seed(n * size)
    coarse = torch.nn.functional.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=size, mode="bicubic")
    return ((coarse + 0.1 * torch.rand(n, 3, size, size, generator=g)).clamp(0, 1) * 255).round() / 255


def with_pil(change: Callable[[Image.Image], Image.Image]) -> Callable[[Tensor, tuple[float, ...]], Tensor]:
    """`change` of PIL images, for a batch."""

    def of(batch: Tensor, row: tuple[float, ...]) -> Tensor:
        changed = [change(tv.to_pil_image((image * 255).round().to(torch.uint8))) for image in batch]
        return torch.stack([tv.pil_to_tensor(image).float() / 255 for image in changed])

    return of


def placed(batch: Tensor, right: np.ndarray, down: np.ndarray) -> Tensor:
    """Pixels read `right` and `down` of where they are put, bilinear, the border repeated; by scipy."""
    rows, columns = np.mgrid[: batch.shape[2], : batch.shape[3]]
    places = [rows + down, columns + right]
    looked = [[ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in image] for image in batch.numpy()]
    return torch.tensor(np.array(looked))


def deformed(batch: Tensor, row: tuple[float, ...]) -> Tensor:
    field = deformation(SIZE, row[0], int(row[1])).numpy()
    return placed(batch, field[..., 0], field[..., 1])


def affine(x: Tensor, scale: float = 1.0, shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    return tv.affine(x, angle=0.0, translate=[0, 0], scale=scale, shear=list(shear), interpolation=BILINEAR)


def blurred(x: Tensor, sigma: float) -> Tensor:
    return tv.gaussian_blur(x, kernel_size=[3, 3], sigma=[sigma, sigma])


def cropped(x: Tensor, row: tuple[float, ...]) -> Tensor:
    top, left, height, width = (round(SIZE * part) for part in row)
    return tv.resized_crop(x, top, left, height, width, [SIZE, SIZE], antialias=False)


# name: rows of parameters, the reference, and how far they may be apart
REFERENCES: dict[str, tuple[list[tuple[float, ...]], Callable[[Tensor, tuple[float, ...]], Tensor], float]] = {
    "rotation": ([(22.5,), (90.0,), (337.5,)], lambda x, v: tv.rotate(x, v[0], interpolation=BILINEAR), 1e-4),
    "translation": (
        [(-2.0, 3.0), (16 / 7, -0.4)],
        lambda x, v: placed(x, np.full((SIZE, SIZE), -v[0]), np.full((SIZE, SIZE), -v[1])), 1e-4,
    ),
    "scale": ([(0.25,), (0.75,), (2.0,)], lambda x, v: affine(x, scale=v[0]), 1e-4),
    "shear": ([(-160.0, 40.0), (40.0, 0.0), (0.0, -60.0)], lambda x, v: affine(x, shear=(v[0], v[1])), 1e-3),
    "resized_crop": ([(0.0, 0.25, 0.75, 0.5), (0.25, 0.125, 0.25, 0.75)], cropped, 1e-4),
    "h_flip": ([(1.0,)], with_pil(ImageOps.mirror), 1e-6),
    "v_flip": ([(1.0,)], with_pil(ImageOps.flip), 1e-6),
    "deform": ([(10 / 7, 0.0), (50 / 7, 7.0)], deformed, 1e-4),
    "grayscale": ([(1.0,)], lambda x, v: tv.rgb_to_grayscale(x, 3), 1e-6),
    "invert": ([(1.0,)], with_pil(ImageOps.invert), 1e-6),
    "equalize": ([(1.0,)], with_pil(ImageOps.equalize), 1e-6),
    "brightness": ([(0.25,), (1.8,), (5.0,)], lambda x, v: tv.adjust_brightness(x, v[0]), 1e-6),
    "contrast": ([(0.25,), (1.8,), (5.0,)], lambda x, v: tv.adjust_contrast(x, v[0]), 1e-5),
    "saturation": ([(0.25,), (1.8,), (5.0,)], lambda x, v: tv.adjust_saturation(x, v[0]), 1e-5),
    "hue": ([(-0.5,), (-0.125,), (0.3,)], lambda x, v: tv.adjust_hue(x, v[0]), 1e-4),
    "blur": ([(0.2,), (1.0,), (20 / 7,)], lambda x, v: blurred(x, v[0]), 1e-5),
    "sharpness": ([(1.5,), (10.0,), (30.0,)], lambda x, v: tv.adjust_sharpness(x, v[0]), 1e-3),
    "posterize": ([(1.0,), (4.0,), (7.0,)], lambda x, v: tv.posterize((x * 255).byte(), int(v[0])) / 256, 1e-6),
}  # fmt: skip


def test_every_transform_has_a_reference():
    assert list(REFERENCES) == list(TRANSFORMS)
    assert [t.group for t in TRANSFORMS.values()] == ["spatial"] * 8 + ["appearance"] * 10


@pytest.mark.parametrize("name", list(REFERENCES))
def test_transforms_equal_their_reference(name):
    rows, reference, tolerance = REFERENCES[name]
    x = images()
    for row in rows:
        expected = reference(x.clone(), row)
        torch.testing.assert_close(TRANSFORMS[name](x, row), expected.float(), atol=tolerance, rtol=0)
    assert torch.equal(x, images()), "what was given is left alone"


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_grid_changes_images_everywhere_but_at_the_identity(name):
    transform, x = TRANSFORMS[name], (images() * 255).round().to(torch.uint8)
    for row in transform.grid(SIZE):
        changed = transform(x, row)
        assert changed.shape == x.shape and changed.dtype == torch.float32
        assert changed.min() >= 0 and changed.max() <= 1
        assert torch.equal(changed, x.float().div(255)) == transform.is_identity(row)
        assert torch.equal(changed[:1], transform(x[:1], row)), "an image does not depend on the others"


def test_the_full_grids_are_the_studys():
    found = {name: transform.grid(224, 256) for name, transform in TRANSFORMS.items()}
    sizes = {name: len(rows) for name, rows in found.items()}
    switches = {"h_flip", "v_flip", "grayscale", "invert", "equalize"}
    assert sizes == {name: 2 if name in switches else 7 if name == "posterize" else 256 for name in TRANSFORMS}
    assert found["rotation"][1] == (360 / 256,)
    steps = [float(v) for v in range(-16, 16, 2)]
    np.testing.assert_allclose(found["translation"], [(x, y) for x in steps for y in steps])
    np.testing.assert_allclose(sorted({x for x, _ in found["shear"]}), np.arange(-160, 141, 20))
    corners, sides = [0, 1 / 12, 1 / 6, 1 / 4], [0.75, 0.75 - 1 / 6, 0.25 + 1 / 6, 0.25]
    expected = [(t, left, h, w) for t in corners for left in corners for h in sides for w in sides]
    np.testing.assert_allclose(found["resized_crop"], expected)
    np.testing.assert_allclose(np.ravel(found["blur"])[[0, -1]], [0, 20])
    assert {name for name in TRANSFORMS if any(TRANSFORMS[name].is_identity(row) for row in found[name])} == {
        "rotation", "translation", "shear", "h_flip", "v_flip", "grayscale", "invert", "equalize", "hue", "blur", "sharpness",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "columns"), [("translation", [0, 1]), ("blur", [0]), ("deform", [0])])
def test_pixels_are_scaled_with_the_image(name, columns):
    small, large = (np.array(TRANSFORMS[name].grid(size))[:, columns] for size in (32, 224))
    np.testing.assert_allclose(small * 7, large)


def test_other_parameters_do_not_depend_on_the_image():
    for name in set(TRANSFORMS) - {"translation", "blur", "deform"}:
        assert TRANSFORMS[name].grid(32) == TRANSFORMS[name].grid(224)


@pytest.mark.parametrize("values", [16, 17, 100])
def test_grids_hold_as_many_rows_as_fit(values):
    rows = {name: TRANSFORMS[name].grid(32, values) for name in TRANSFORMS}
    assert len(rows["rotation"]) == len(set(rows["deform"])) == values
    assert len(rows["translation"]) == math.isqrt(values) ** 2
    assert len(rows["resized_crop"]) == {16: 16, 17: 16, 100: 81}[values]
    assert all(len(set(grid)) == len(grid) for grid in rows.values())


def test_a_deformation_has_its_strength_and_smoothness_and_is_drawn_from_its_seed():
    coarse, fine = deformation(64, 8.0, 1).double(), deformation(64, 2.0, 1).double()
    for field, scale in ((coarse, 8.0), (fine, 2.0)):
        assert float(field.square().sum(dim=2).mean().sqrt()) == pytest.approx(BENDING * scale)
        torch.testing.assert_close(field.mean(dim=(0, 1)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    noise = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    smooth = ndimage.gaussian_filter(noise[0], 2.0, mode="wrap", truncate=8)
    assert np.corrcoef(smooth.ravel(), fine[..., 0].numpy().ravel())[0, 1] == pytest.approx(1, abs=1e-6)
    assert torch.equal(deformation(64, 2.0, 1), deformation(64, 2.0, 1))
    assert not torch.equal(deformation(64, 2.0, 1), deformation(64, 2.0, 2))


def test_what_cannot_be_transformed_is_refused_in_one_line():
    for call in (
        lambda: TRANSFORMS["rotation"].grid(32, 15),
        lambda: TRANSFORMS["rotation"].grid(32, 257),
        lambda: TRANSFORMS["rotation"].grid(4),
        lambda: TRANSFORMS["translation"](images(), (1.0,)),
        lambda: TRANSFORMS["rotation"](images()[..., :20], (1.0,)),
        lambda: TRANSFORMS["rotation"](images() * 255, (1.0,)),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert "\n" not in str(refused.value)
