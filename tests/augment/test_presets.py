from __future__ import annotations

import pytest
import torch

from mastlib.augment import ColorJitter, GaussianBlur, Pipeline, RandomResizedCrop, get_pipeline, list_presets
from mastlib.errors import InputError


def op_of(pipeline: Pipeline, kind: type) -> object:
    return next(op for op in pipeline.ops if isinstance(op, kind))


def test_presets_hold_the_published_augmentations() -> None:
    names = {name: get_pipeline(name, 96).names for name in list_presets()}
    five = ("crop", "flip", "color", "grayscale", "blur")
    assert names == {"standard5": five, "vicreg": five, "spatial": five[:2], "appearance": five[2:]}
    for name, crop_scale, widths in (
        ("standard5", (0.2, 1.0), [0.8, 0.8, 0.8, 0.2]),
        ("vicreg", (0.08, 1.0), [0.8, 0.8, 0.4, 0.2]),
    ):
        pipeline = get_pipeline(name, 96)
        crop, jitter = op_of(pipeline, RandomResizedCrop), op_of(pipeline, ColorJitter)
        assert isinstance(crop, RandomResizedCrop) and (crop.scale, crop.ratio) == (crop_scale, (3 / 4, 4 / 3))
        assert isinstance(jitter, ColorJitter) and torch.allclose(jitter.widths, torch.tensor(widths))
        assert [op.p for op in pipeline.ops] == [1.0, 0.5, 0.8, 0.2, 0.5]


PUBLISHED = (0.1, 2.0)  # pixels


@pytest.mark.parametrize(
    ("side", "sigma"), [(224, PUBLISHED), (96, PUBLISHED), (48, (0.05, 1.0)), (32, (0.1 / 3, 2.0 / 3))]
)
def test_blur_shrinks_with_images_below_96_pixels(side: int, sigma: tuple[float, float]) -> None:
    blur = op_of(get_pipeline("standard5", side), GaussianBlur)
    assert isinstance(blur, GaussianBlur) and blur.sigma == pytest.approx(sigma)
    drawn = blur.sample(2000)
    assert sigma[0] <= drawn.min() + 1e-6 and drawn.max() <= sigma[1] + 1e-6 and drawn.max() > 0.95 * sigma[1]


def test_views_have_the_size_asked_for_and_appearance_keeps_the_frame() -> None:
    images = torch.rand(3, 3, 40, 40)
    assert get_pipeline("vicreg", 32).views(images).images.shape == (2, 3, 3, 32, 32)
    assert get_pipeline("spatial", 32, without=["flip"]).views(images).images.shape == (2, 3, 3, 32, 32)
    assert get_pipeline("appearance", 32).views(images).images.shape == (2, 3, 3, 40, 40)


def test_without_leaves_the_others_in_order() -> None:
    assert get_pipeline("standard5", 32, without=("flip", "blur")).names == ("crop", "color", "grayscale")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("moco_v3", 32), "preset = 'moco_v3'.*standard5"),
        (("standard5", 0), "image_size = 0"),
        (("standard5", 32.5), "image_size = 32.5"),
        (("standard5", 32, ("solarize",)), "without = 'solarize'.*crop"),
        (("spatial", 32, ("crop", "flip")), "empty"),
        (("standard5", 32, "crop"), "a list of names"),
    ],
)
def test_bad_presets_are_refused(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        get_pipeline(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
