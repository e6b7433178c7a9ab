"""Published augmentation pipelines by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mastlib.augment.blur import GaussianBlur, Sharpness
from mastlib.augment.colour import ColorJitter, Grayscale
from mastlib.augment.geometry import HorizontalFlip, RandomResizedCrop, Rot90
from mastlib.augment.levels import AutoContrast, Equalize, Posterize, Solarize
from mastlib.augment.moves import Rotate, ShearX, ShearY, TranslateX, TranslateY
from mastlib.augment.ops import Op
from mastlib.augment.pipeline import Pipeline
from mastlib.errors import InputError, check_choice, check_int, refuse

BLUR_REFERENCE_SIDE = 96  # pixels: the smallest images (STL-10) that the published sigma of .1 to 2 was used on


def blur(image_size: int) -> GaussianBlur:
    """Blur with p .5 and sigma U(.1, 2) pixels, as published; both ends times image_size / 96 below 96 pixels.

    Our rule: at 32 pixels a sigma of 2 would erase what it softens at 96. Descriptors stay in pixels.
    """
    factor = min(1.0, image_size / BLUR_REFERENCE_SIDE)
    return GaussianBlur((0.1 * factor, 2.0 * factor), p=0.5)


def standard5(image_size: int) -> list[Op]:
    """Crop .2-1, flip .5, jitter (.4, .4, .4, .1) p .8, grayscale .2, blur sigma .1-2 p .5.

    Source: AugSelf (Lee et al., NeurIPS 2021), STL-10 setting, its default colour; the five of MAST's list.
    """
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    return [RandomResizedCrop(image_size), HorizontalFlip(p=0.5), jitter, Grayscale(p=0.2), blur(image_size)]


def moco_v2(image_size: int) -> list[Op]:
    """`standard5` with the flip last. Source: MoCo v2 (Chen et al., 2020), its released code."""
    crop, flip, jitter, grayscale, softened = standard5(image_size)
    return [crop, jitter, grayscale, softened, flip]


def extended15(image_size: int) -> list[Op]:
    """`standard5` and ten more, each with p .5: autocontrast, equalize, posterize, rotate, sharpness, shears, solarize,
    translations.

    MAST (Huang et al., ICLR 2023) names five and says fifteen; which ten, and how strong, is our reading: the pool of
    FixMatch and CLSA without what colour jitter does already, and CLSA's magnitudes (Wang and Qi, 2021, its code).
    """
    more: list[Op] = [AutoContrast(0.5), Equalize(0.5), Posterize(), Rotate(), Sharpness()]
    more += [ShearX(), ShearY(), Solarize(), TranslateX(), TranslateY()]
    return [*standard5(image_size), *more]


def vicreg(image_size: int) -> list[Op]:
    """Crop .08-1, flip .5, jitter (.4, .4, .2, .1) p .8, grayscale .2, blur p .5: both views alike, NO solarization.

    Source: VICReg (Bardes et al., ICLR 2022), appendix, which adds solarization with p .1; MAST's list of five has
    none. The released code is asymmetric (blur p 1 and .1, solarization p 0 and .2, bicubic crops); this is not.
    """
    crop = RandomResizedCrop(image_size, scale=(0.08, 1.0))
    jitter = ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8)
    return [crop, HorizontalFlip(p=0.5), jitter, Grayscale(p=0.2), blur(image_size)]


def _colour(image_size: int, strength: float) -> list[Op]:
    """AugSelf's pipeline with jitter (.4, .4, .4, .1) and grayscale .2, both times `strength`."""
    crop, flip, _, _, softened = standard5(image_size)
    jitter = ColorJitter(0.4 * strength, 0.4 * strength, 0.4 * strength, 0.1 * strength, p=0.8)
    return [crop, flip, jitter, Grayscale(p=0.2 * strength), softened]


def augself_weak(image_size: int) -> list[Op]:
    """`standard5` with half the colour: jitter (.2, .2, .2, .05), grayscale .1.

    Source: AugSelf (Lee et al., NeurIPS 2021), code, STL-10, `color_aug` weak.
    """
    return _colour(image_size, 0.5)


def augself_strong(image_size: int) -> list[Op]:
    """`standard5` with twice the colour: jitter (.8, .8, .8, .2), grayscale .4.

    Source: AugSelf (Lee et al., NeurIPS 2021), code, STL-10, `color_aug` strong.
    """
    return _colour(image_size, 2.0)


def augself_rot(image_size: int) -> list[Op]:
    """`standard5` and then, p .5, 0 to 3 quarter turns: a real turn with p .375. Source: AugSelf (NeurIPS 2021), code."""
    return [*standard5(image_size), Rot90(p=0.375)]


def augself_sol(image_size: int) -> list[Op]:
    """`standard5` and solarization after the jitter, p .5, threshold U(0, 1). Source: AugSelf (NeurIPS 2021), code."""
    crop, flip, jitter, grayscale, softened = standard5(image_size)
    return [crop, flip, jitter, Solarize((0.0, 1.0), p=0.5), grayscale, softened]


def spatial(image_size: int) -> list[Op]:
    """The crop and the flip of `standard5`. Source: "Spatial" of Ericsson et al., BMVC 2022 (ssl-invariances)."""
    return standard5(image_size)[:2]


def appearance(image_size: int) -> list[Op]:
    """Jitter, grayscale and blur of `standard5`: no crop, so images keep their frame and size.

    Source: "Appearance" of Ericsson et al., BMVC 2022 (ssl-invariances), which blurs before it scales images down.
    """
    return standard5(image_size)[2:]


class JitterAgain(ColorJitter):
    """Jitter under a second name, so that a pipeline can hold it beside the first."""

    name = "color_again"


def jitter_twice(image_size: int) -> list[Op]:
    """`standard5` with its jitter twice, one after the other, "color" and "color_again": a control for what is learned of each.

    Whatever is learned of the two should be alike. Source: ours.
    """
    crop, flip, jitter, grayscale, softened = standard5(image_size)
    return [crop, flip, jitter, JitterAgain(0.4, 0.4, 0.4, 0.1, p=0.8), grayscale, softened]


PRESETS: dict[str, Callable[[int], list[Op]]] = {
    "standard5": standard5,
    "moco_v2": moco_v2,
    "extended15": extended15,
    "vicreg": vicreg,
    "augself_weak": augself_weak,
    "augself_default": standard5,
    "augself_strong": augself_strong,
    "augself_rot": augself_rot,
    "augself_sol": augself_sol,
    "default": moco_v2,  # of ssl-invariances (Ericsson et al., BMVC 2022), beside the two that follow
    "spatial": spatial,
    "appearance": appearance,
    "jitter_twice": jitter_twice,
}


def list_presets() -> list[str]:
    """The names that `get_pipeline` knows."""
    return list(PRESETS)


def get_pipeline(
    name: str, image_size: int, without: Sequence[str] = (), *, exact: bool = True, compiled: bool = False
) -> Pipeline:
    """The preset `name` for square views of `image_size` pixels, lacking the augmentations named in `without`.

    `exact`, `compiled`: see Pipeline.

    Raises InputError for an unknown preset, an unknown name in `without`, and where nothing is left.
    """
    check_choice("preset", name, PRESETS)
    check_int("image_size", image_size, 2)
    if isinstance(without, str):
        raise refuse("without", without, "a list of names")
    pipeline = Pipeline(PRESETS[name](image_size), exact, compiled)
    for lacking in without:
        if pipeline.names == (lacking,):
            raise InputError(f"without = {list(without)!r} cannot be used; preset {name} would be empty")
        pipeline = pipeline.without(lacking)
    return pipeline
