from __future__ import annotations

import pytest
import torch

from mastlib.augment import ColorJitter, GaussianBlur, Pipeline, RandomResizedCrop, audit, get_pipeline, list_presets
from mastlib.errors import InputError


def op_of(pipeline: Pipeline, kind: type) -> object:
    return next(op for op in pipeline.ops if isinstance(op, kind))


def test_presets_hold_the_published_augmentations() -> None:
    names = {name: get_pipeline(name, 96).names for name in list_presets()}
    five = ("crop", "flip", "color", "grayscale", "blur")
    ten = ("autocontrast", "equalize", "posterize", "rotate", "sharpness", "shear_x", "shear_y", "solarize")
    assert names == {
        "standard5": five, "extended15": (*five, *ten, "translate_x", "translate_y"), "vicreg": five,
        "augself_weak": five, "augself_default": five, "augself_strong": five, "augself_rot": (*five, "rot90"),
        "augself_sol": (*five[:3], "solarize", *five[3:]), "spatial": five[:2], "appearance": five[2:],
        "moco_v2": ("crop", "color", "grayscale", "blur", "flip"), "default": ("crop", "color", "grayscale", "blur", "flip"),
        "jitter_twice": (*five[:3], "color_again", *five[3:]),
    }  # fmt: skip
    assert [op.p for op in get_pipeline("extended15", 96).ops[5:]] == [0.5] * 10
    for name, crop_scale, widths in (
        ("standard5", (0.2, 1.0), [0.8, 0.8, 0.8, 0.2]),
        ("augself_default", (0.2, 1.0), [0.8, 0.8, 0.8, 0.2]),
        ("moco_v2", (0.2, 1.0), [0.8, 0.8, 0.8, 0.2]),
        ("default", (0.2, 1.0), [0.8, 0.8, 0.8, 0.2]),
        ("vicreg", (0.08, 1.0), [0.8, 0.8, 0.4, 0.2]),
        ("augself_weak", (0.2, 1.0), [0.4, 0.4, 0.4, 0.1]),
        ("augself_strong", (0.2, 1.0), [1.6, 1.6, 1.6, 0.4]),
    ):
        pipeline = get_pipeline(name, 96)
        crop, jitter = op_of(pipeline, RandomResizedCrop), op_of(pipeline, ColorJitter)
        assert isinstance(crop, RandomResizedCrop) and (crop.scale, crop.ratio) == (crop_scale, (3 / 4, 4 / 3))
        assert isinstance(jitter, ColorJitter) and torch.allclose(jitter.widths, torch.tensor(widths))
        grayscale = {"augself_weak": 0.1, "augself_strong": 0.4}.get(name, 0.2)
        rates = {"crop": 1.0, "flip": 0.5, "color": 0.8, "grayscale": grayscale, "blur": 0.5}
        assert {op.name: op.p for op in pipeline.ops} == rates


def test_a_quarter_turn_is_real_in_three_of_eight_views_and_every_one_as_often() -> None:
    params, applied = get_pipeline("augself_rot", 96).sample(8000, torch.Generator().manual_seed(0))
    shares = torch.bincount(params["rot90"][:, 0].long(), minlength=4) / 8000
    assert torch.allclose(shares, torch.tensor([0.625, 0.125, 0.125, 0.125]), atol=0.02)
    assert torch.equal(applied["rot90"], params["rot90"][:, 0] > 0)


def test_the_doubled_jitter_is_the_same_operation_under_two_names() -> None:
    pipeline = get_pipeline("jitter_twice", 24)
    first, second = (op for op in pipeline.ops if isinstance(op, ColorJitter))
    assert (first.name, second.name) == ("color", "color_again") and first.p == second.p == 0.8
    assert torch.equal(first.widths, second.widths)
    images = torch.rand(200, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    rows = first.sample(200, torch.Generator().manual_seed(1))
    nothing = {op.name: op.identity.expand(200, -1) for op in pipeline.ops}
    alone = [pipeline.apply(images, nothing | {name: rows}) for name in ("color", "color_again")]
    assert torch.equal(*alone) and not torch.equal(alone[0], images)
    views = pipeline.views(images, "isolate_one", torch.Generator().manual_seed(2), crop_redrawn=0.0, weights={
        name: float(name.startswith("color")) for name in pipeline.names})  # fmt: skip
    one, other = (audit(views)[:, pipeline.names.index(name)] for name in ("color", "color_again"))
    assert torch.equal(one, ~other) and 60 < int(one.sum()) < 140, "a pair differs in one of the two alone"


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


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_is_its_operations_one_after_the_other(name: str) -> None:
    """And deterministic, and the identity where nothing is applied, in both pairings."""
    pipeline = get_pipeline(name, 24)
    images = torch.rand(40, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    params, _ = pipeline.sample(40, torch.Generator().manual_seed(1))
    expected = images
    for op in pipeline.ops:
        expected = op.apply(expected, params[op.name])
    got = pipeline.apply(images, params)
    assert torch.equal(got, pipeline.apply(images, params))
    assert (got - expected).abs().flatten(1).amax(1).quantile(0.9) < 1e-4  # a level op may turn rounding into a step
    nothing = {op.name: op.identity.expand(40, -1) for op in pipeline.ops}
    assert torch.equal(pipeline.apply(images, nothing), images)
    views = pipeline.views(images, "isolate_one", torch.Generator().manual_seed(2), crop_redrawn=0.0)
    changed = audit(views)
    assert torch.equal(changed.sum(dim=1), torch.ones(40, dtype=torch.long))
    assert torch.equal(changed.int().argmax(dim=1), views.changed)
