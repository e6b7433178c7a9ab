"""Every augmentation against torchvision's, applied to one image at a time, over sizes, types and whole ranges."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

import mastlib.augment
from mastlib.augment import (
    AutoContrast,
    ColorJitter,
    Equalize,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Invert,
    Op,
    Pipeline,
    Posterize,
    RandomResizedCrop,
    Rot90,
    Rotate,
    Sharpness,
    ShearX,
    ShearY,
    Solarize,
    SolarizeAdd,
    TranslateX,
    TranslateY,
    VerticalFlip,
    get_pipeline,
    list_presets,
)
from mastlib.augment.pipeline import stages

Row = list[float]
Size = tuple[int, int]

BILINEAR = InterpolationMode.BILINEAR
STRENGTHS = (1.0, 0.4, 0.8, 0.5)  # brightness and hue at their largest
ORDERS = list(permutations((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)))

# Crossed with one pixel, odd, not square, and large enough that Equalize has more than 255 pixels to spread.
SIZES = [(1, 1), (1, 9), (8, 1), (2, 3), (5, 5), (16, 16), (17, 23), (40, 33), (24, 6)]
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("noise", "gray", "flat", "two values", "narrow", "ramp")


@dataclass(frozen=True)
class Case:
    """How an op is drawn and what it has to equal: `reference(image, row)` of one float32 image (3, H, W)."""

    build: Callable[[Size], Op]
    ends: list[Row]  # both ends of what it accepts, and of what it draws by default
    drawn: st.SearchStrategy[Row]
    reference: Callable[[Tensor, Row], Tensor]
    tolerance: float = 1e-5
    smallest: int = 1  # side in pixels
    square: bool = False
    levels: bool = False  # a step: only on 8-bit levels is there one answer, elsewhere rounding can cross the threshold


def number(low: float, high: float) -> st.SearchStrategy[Row]:
    """One parameter, exact in float32 so that both sides see the same number."""
    low, high = (float(np.float32(end)) for end in (low, high))
    return st.floats(low, high, width=32).map(lambda value: [value])


def shifted(image: Tensor, translate: Row | None = None, shear: Row | None = None) -> Tensor:
    """torchvision's affine map about the top left corner, whose shear is an angle in degrees."""
    degrees = [math.degrees(math.atan(s)) for s in shear or (0, 0)]
    where = {"angle": 0.0, "translate": translate or [0.0, 0.0], "scale": 1.0, "shear": degrees, "center": [0.0, 0.0]}
    return tv.affine(image, **where, interpolation=BILINEAR)


def jitter(image: Tensor, row: Row) -> Tensor:
    for adjust in ORDERS[int(row[4])]:
        which = ORDERS[0].index(adjust)
        change = row[which] * 2 * STRENGTHS[which]
        image = adjust(image, change if adjust is tv.adjust_hue else max(0.0, 1 + change))
    return image


def blurred(image: Tensor, row: Row) -> Tensor:
    return tv.gaussian_blur(image, [max(3, min(image.shape[1:]) // 20 * 2 + 1)] * 2, row * 2)


def raised(image: Tensor, row: Row) -> Tensor:
    """torchvision has no such function: float64, in words the definition's own."""
    values = image.double()
    return torch.where(values < 0.5, torch.minimum(values + row[0], torch.ones_like(values)), values)


def read(line: np.ndarray, low: float, side: float, outputs: int) -> np.ndarray:
    """`outputs` values from the part [low, low + side] of `line` (L, ...), in pixels: linear between the pixels' centres.

    No point is nearer to the part's edge than half a pixel, in a part thinner than a pixel all are in its middle.
    """
    last = len(line) - 1
    values = []
    for i in range(outputs):
        at = low + (i + 0.5) * side / outputs
        at = min(max(at, low + 0.5), low + side - 0.5) if side > 1 else low + side / 2
        at = min(max(at - 0.5, 0.0), float(last))
        before = int(at)
        values.append(line[before] + (line[min(before + 1, last)] - line[before]) * (at - before))
    return np.stack(values)


def cut(image: Tensor, row: Row, size: Size | None = None) -> Tensor:
    """The box of `image` in `size` (that of the image), in float64, rows first and then columns."""
    height, width = image.shape[1:]
    y, x, h, w = row
    rows, columns = size or (height, width)
    values = image.double().permute(1, 2, 0).numpy()  # (H, W, 3)
    values = read(values, (y - h / 2) * height, h * height, rows)
    values = read(values.swapaxes(0, 1), (x - w / 2) * width, w * width, columns)
    return torch.from_numpy(values.transpose(2, 1, 0).copy())


def box(values: tuple[float, float, float, float]) -> Row:
    """Sides (h, w) and a place between the first possible and the last, as (y_c, x_c, h, w)."""
    h, w, down, right = values
    return [h / 2 + down * (1 - h), w / 2 + right * (1 - w), h, w]


SHARE = st.floats(0, 1, width=32)
SIDE = st.floats(0.0625, 1, width=32)
BOX_ENDS = [box(v) for v in ((1, 1, 0, 0), (0.2, 0.2, 0, 0), (0.2, 1, 1, 1), (1, 0.08, 1, 0), (0.001, 0.001, 0.3, 1))]
OFFSET = st.one_of(st.sampled_from([-0.5, 0.0, 0.5]), st.floats(-0.5, 0.5, width=32))
CORNERS = [[b, c, s, h, o] for b, c, s, h, o in zip((-0.5, 0.5, 0.0, 0.5, -0.5, 0.5), (0.5, -0.5, 0.5, -0.5, -0.5, 0.5),
           (0.5, -0.5, -0.5, 0.0, -0.5, 0.5), (-0.5, 0.5, 0.5, 0.25, -0.5, 0.5), (0, 23, 7, 12, 5, 18), strict=True)]  # fmt: skip
SWITCH = st.sampled_from([[0.0], [1.0]])


def switch(op: Op, reference: Callable[[Tensor], Tensor], **more: object) -> Case:
    return Case(lambda _: op, [[0.0], [1.0]], SWITCH, lambda image, _: reference(image), **more)  # type: ignore[arg-type]


def signed(op: Op, most: float, low: float, high: float, reference: Callable[[Tensor, float], Tensor]) -> Case:
    """A move: everything up to `most` on both sides. Coordinates are rounded on another way, hence the tolerance."""
    ends = [[sign * strength] for strength in (0.0, low, high, most) for sign in (-1, 1)]
    return Case(lambda _: op, ends, number(-most, most), lambda image, row: reference(image, row[0]), tolerance=1e-3)


CASES = [
    Case(RandomResizedCrop, BOX_ENDS, st.tuples(SIDE, SIDE, SHARE, SHARE).map(box), cut, tolerance=1e-4),
    switch(HorizontalFlip(), tv.horizontal_flip, tolerance=0.0),
    switch(VerticalFlip(), tv.vertical_flip, tolerance=0.0),
    Case(lambda _: Rot90(), [[0.0], [1.0], [2.0], [3.0]], st.integers(0, 3).map(lambda k: [float(k)]),
         lambda image, row: tv.rotate(image, 90 * row[0]), tolerance=0.0, square=True),
    Case(lambda _: ColorJitter(*STRENGTHS), [[0.0] * 5, *CORNERS],
         st.tuples(OFFSET, OFFSET, OFFSET, OFFSET, st.integers(0, 23).map(float)).map(list), jitter, tolerance=1e-4),
    switch(Grayscale(), lambda image: tv.rgb_to_grayscale(image, 3)),
    Case(lambda _: GaussianBlur(), [[0.0], [1e-3], [0.1], [2.0], [1e3]], number(0.05, 5), blurred, smallest=2),
    Case(lambda _: Sharpness(), [[0.0], [-1.0], [0.14 - 1], [0.86 - 1], [9.0]], number(-1, 9),
         lambda image, row: tv.adjust_sharpness(image, 1 + row[0])),
    switch(AutoContrast(), tv.autocontrast),
    switch(Equalize(), tv.equalize, levels=True),
    switch(Invert(), tv.invert, tolerance=0.0),
    Case(lambda _: Posterize(), [[1.0], [4.0], [7.0], [8.0]], st.integers(1, 8).map(lambda bits: [float(bits)]),
         lambda image, row: tv.posterize(image, int(row[0])), tolerance=0.0, levels=True),
    # Thresholds on a level too: both sides compare the same two float32 numbers, so the border rule is seen.
    Case(lambda _: Solarize(), [[0.0], [26 / 256], [231 / 256], [1.0], [float(np.float32(128) / np.float32(255))]],
         st.one_of(number(0, 1), st.integers(0, 255).map(lambda level: [float(np.float32(level) / np.float32(255))])),
         lambda image, row: tv.solarize(image, row[0]), tolerance=0.0, levels=True),
    Case(lambda _: SolarizeAdd(), [[0.0], [110 / 256], [1.0]], number(0, 1), raised, levels=True),
    signed(Rotate(), 180, 3, 27, lambda image, v: tv.rotate(image, v, interpolation=BILINEAR)),
    signed(ShearX(), 1, 0.03, 0.27, lambda image, v: shifted(image, shear=[v, 0])),
    signed(ShearY(), 1, 0.03, 0.27, lambda image, v: shifted(image, shear=[0, v])),
    signed(TranslateX(), 1, 0.03, 0.27, lambda image, v: shifted(image, [v * image.shape[2], 0])),
    signed(TranslateY(), 1, 0.03, 0.27, lambda image, v: shifted(image, [0, v * image.shape[1]])),
]  # fmt: skip
BY_NAME = {type(case.build((4, 4))).__name__: case for case in CASES}
SMOOTH = ("standard5", "vicreg", "augself_weak", "augself_strong", "augself_rot", "spatial", "appearance")

every_op = pytest.mark.parametrize("case", list(BY_NAME.values()), ids=list(BY_NAME))
usual = settings(deadline=None, derandomize=True, database=None, max_examples=15)


def pictures(n: int, size: Size, seed: int, kind: str, levels: bool = True) -> Tensor:
    """`n` images (n, 3, H, W) of one kind; on the 256 levels of 8 bits where `levels`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, *size, generator=generator)
    if kind == "gray":
        images[:, 1:] = images[:, :1]
    elif kind == "flat":
        images[:, seed % 3] = images[:, seed % 3, :1, :1]
    elif kind == "two values":
        images = images.round_()
    elif kind == "narrow":
        images = 0.45 + images / 8
    elif kind == "ramp":
        images = torch.linspace(0, 1, size[0] * size[1]).view(size) * images[..., :1, :1]
    return (images * 255).round_().div_(255) if levels else images


@dataclass(frozen=True)
class Batch:
    op: Op
    images: Tensor
    rows: list[Row]

    @property
    def params(self) -> Tensor:
        return torch.tensor(self.rows).view(len(self.rows), len(self.op.identity))

    def applied(self) -> Tensor:
        return self.op.apply(self.images, self.params)


@st.composite
def batches(draw: st.DrawFn, case: Case) -> Batch:
    """Images of any accepted type and size, none, one or several, with parameters from the ends and in between."""
    side = st.integers(case.smallest, 24)
    fitting = [size for size in SIZES if min(size) >= case.smallest and (not case.square or size[0] == size[1])]
    free = side.map(lambda s: (s, s)) if case.square else st.tuples(side, side)
    size = draw(st.one_of(st.sampled_from(fitting), free))
    rows = draw(st.lists(st.one_of(st.sampled_from(case.ends), case.drawn), max_size=5))
    dtype = draw(st.sampled_from(DTYPES))
    levels = case.levels or dtype == torch.uint8
    images = pictures(len(rows), size, draw(st.integers(0, 999)), draw(st.sampled_from(KINDS)), levels)
    images = (images * 255).round_().byte() if dtype == torch.uint8 else images.to(dtype)
    return Batch(case.build(size), images, rows)


def as_float(images: Tensor) -> Tensor:
    return images / 255 if images.dtype == torch.uint8 else images.float()


def check(case: Case, batch: Batch) -> None:
    got = batch.applied()
    assert got.shape == batch.images.shape and got.dtype == torch.float32
    for image, row, kept, view in zip(as_float(batch.images), batch.params.tolist(), batch.params, got, strict=True):
        expected = image if torch.equal(kept, batch.op.identity) else case.reference(image, row)
        assert (view - expected).abs().max() <= case.tolerance, (batch.op.name, row, tuple(image.shape))


def test_every_augmentation_has_a_reference() -> None:
    public = {name: getattr(mastlib.augment, name) for name in mastlib.augment.__all__}
    ops = {name for name, what in public.items() if inspect.isclass(what) and issubclass(what, Op) and what is not Op}
    assert ops == set(BY_NAME)
    assert all(case.tolerance <= 1 / 255 for case in CASES)


@every_op
@given(data=st.data())
@usual
def test_equals_torchvision_image_by_image(case: Case, data: st.DataObject) -> None:
    check(case, data.draw(batches(case)))


@every_op
@pytest.mark.parametrize("size", [(21, 21), (17, 30), (3, 2), (1, 1)])
def test_equals_torchvision_at_the_ends_of_the_ranges_and_at_the_identity(case: Case, size: Size) -> None:
    if min(size) < case.smallest or (case.square and size[0] != size[1]):
        size = (16, 16)
    op = case.build(size)
    rows = [*case.ends, op.identity.tolist()]
    for kind in KINDS:
        check(case, Batch(op, pictures(len(rows), size, 7, kind, case.levels), rows))


@every_op
@given(data=st.data())
@usual
def test_result_repeats_stays_in_range_and_leaves_its_input(case: Case, data: st.DataObject) -> None:
    batch = data.draw(batches(case))
    images, params = batch.images.clone(), batch.params
    got = batch.op.apply(batch.images, params)
    assert torch.equal(batch.images, images) and torch.equal(params, batch.params)
    assert torch.equal(batch.applied(), got)
    assert got.dtype == torch.float32 and ((got >= 0) & (got <= 1)).all()
    assert torch.equal(batch.op.apply(as_float(images), params), got)


@every_op
@given(data=st.data())
@usual
def test_rows_at_the_identity_come_back_bit_for_bit(case: Case, data: st.DataObject) -> None:
    batch = data.draw(batches(case))
    off = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(batch.rows), max_size=len(batch.rows)))).bool()
    params = torch.where(off[:, None], batch.op.identity, batch.params)
    got = batch.op.apply(batch.images, params)
    assert torch.equal(got[off], as_float(batch.images)[off])
    assert torch.allclose(got[~off], batch.applied()[~off], atol=1e-6, rtol=0)


@every_op
@given(data=st.data())
@usual
def test_a_row_does_not_depend_on_the_others(case: Case, data: st.DataObject) -> None:
    batch = data.draw(batches(case))
    together = batch.applied()
    for i in range(len(batch.rows)):
        alone = batch.op.apply(batch.images[i : i + 1], batch.params[i : i + 1])
        assert torch.allclose(together[i], alone[0], atol=1e-6, rtol=0)
    backwards = batch.op.apply(batch.images.flip(0), batch.params.flip(0))
    assert torch.allclose(together.flip(0), backwards, atol=1e-6, rtol=0)


PIXELS = st.integers(1, 30)


@given(frame=st.tuples(PIXELS, PIXELS), size=st.tuples(PIXELS, PIXELS), data=st.data())
@settings(usual, max_examples=25)
def test_crop_of_whole_pixels_equals_torchvision(frame: Size, size: Size, data: st.DataObject) -> None:
    """Cut, then resized: what is beside the box cannot be seen."""
    rows, pixels = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        (top, h), (left, w) = (
            data.draw(
                st.integers(1, side).flatmap(lambda n, side=side: st.tuples(st.integers(0, side - n), st.just(n)))
            )
            for side in frame
        )
        pixels.append((top, left, h, w))
        rows.append([(top + h / 2) / frame[0], (left + w / 2) / frame[1], h / frame[0], w / frame[1]])
    images = pictures(len(rows), frame, 3, data.draw(st.sampled_from(KINDS)), levels=False)
    got = RandomResizedCrop(size).apply(images, torch.tensor(rows))
    for image, (top, left, h, w), row, view in zip(images, pixels, rows, got, strict=True):
        inside = tv.crop(image, top, left, h, w)
        assert (view - tv.resize(inside, list(size), BILINEAR, antialias=False)).abs().max() < 1e-4
        assert (view - cut(image, row, size)).abs().max() < 1e-4
        assert view.min() >= inside.min() - 1e-4 and view.max() <= inside.max() + 1e-4


@given(frame=st.tuples(PIXELS, PIXELS), size=st.tuples(PIXELS, PIXELS), data=st.data())
@settings(usual, max_examples=25)
def test_crop_between_pixels_equals_a_float64_reference(frame: Size, size: Size, data: st.DataObject) -> None:
    rows = data.draw(st.lists(CASES[0].drawn, min_size=1, max_size=4))
    images = pictures(len(rows), frame, 4, "noise", levels=False)
    got = RandomResizedCrop(size).apply(images, torch.tensor(rows))
    for image, row, view in zip(images, torch.tensor(rows).tolist(), got, strict=True):
        assert (view - cut(image, row, size)).abs().max() < 1e-4


@given(kernel=st.sampled_from([1, 3, 5, 15]), sigma=number(0.05, 8), data=st.data())
@settings(usual, max_examples=20)
def test_blur_with_a_kernel_asked_for_equals_torchvision(kernel: int, sigma: Row, data: st.DataObject) -> None:
    """Up to the largest reflection that a side allows, and one pixel with a kernel of one."""
    side = st.integers(kernel // 2 + 1, 24)
    images = pictures(2, data.draw(st.tuples(side, side)), 5, "noise", levels=False)
    got = GaussianBlur(kernel_size=kernel).apply(images, torch.tensor([sigma, sigma]))
    assert (got - tv.gaussian_blur(images, [kernel] * 2, sigma * 2)).abs().max() < 1e-5


@pytest.mark.parametrize("name", list_presets())
@given(
    n=st.sampled_from([0, 1, 2, 9]),
    size=st.sampled_from([(24, 24), (31, 20)]),
    seed=st.integers(0, 99),
    whole=st.booleans(),
)
@settings(usual, max_examples=8)
def test_presets_are_their_augmentations_in_turn(name: str, n: int, size: Size, seed: int, whole: bool) -> None:
    pipeline = get_pipeline(name, 24)
    images = pictures(n, size, seed, "noise", levels=whole)
    images = (images * 255).round_().byte() if whole else images
    params, _ = pipeline.sample(n, torch.Generator().manual_seed(seed))
    before, expected = images.clone(), as_float(images)
    for op in pipeline.ops:
        expected = op.apply(expected, params[op.name])
    got = pipeline.apply(images, params)
    assert torch.equal(images, before) and torch.equal(got, pipeline.apply(images, params))
    assert got.shape == expected.shape and got.dtype == torch.float32 and ((got >= 0) & (got <= 1)).all()
    error = (got - expected).abs().flatten(1)
    if name in SMOOTH:
        assert (error <= 1e-5).all()
    else:  # a value that rounding carries over a threshold is a step away, and so are a few that are computed from it
        assert ((error > 1e-5).float().mean(dim=1) < 0.05).all()


MOVES = (Rotate(), ShearX(), ShearY(), TranslateX(), TranslateY())


@given(chosen=st.lists(st.sampled_from(MOVES), min_size=2, max_size=5, unique=True), seed=st.integers(0, 99))
@settings(usual, max_examples=25)
def test_moves_folded_into_one_pass_differ_by_the_interpolations_saved(chosen: list[Op], seed: int) -> None:
    """Linear interpolation errs by at most (|f_xx| + |f_yy|) / 8 a pass, and no later pass makes that larger.

    So m passes and the single one are at most (m + 1) times that apart wherever no black has come in, which the same
    moves of a white image show.
    """
    side, wave = 64, 2 * math.pi / 40  # pixels, radians a pixel
    at = torch.arange(side, dtype=torch.float64) * wave
    smooth = (0.5 + 0.25 * at.sin()[:, None] + 0.2 * (at * 0.7 + 1).cos()).float().expand(3, 3, side, side)
    bound = (0.25 * wave**2 + 0.2 * (0.7 * wave) ** 2) / 8 * (len(chosen) + 1)
    pipeline, folded = Pipeline(chosen), Pipeline(chosen, exact=False)
    params = {
        op.name: op.sample(3, torch.Generator().manual_seed(seed)) / 2 for op in chosen
    }  # most of it stays inside
    white = torch.ones_like(smooth)
    kept = (pipeline.apply(white, params) > 1 - 1e-5) & (folded.apply(white, params) > 1 - 1e-5)
    assert kept.float().mean() > 0.2
    error = (pipeline.apply(smooth, params) - folded.apply(smooth, params)).abs()[kept].max()
    assert error <= bound + 1e-4


def test_folding_is_seen_on_noise_unless_the_moves_are_along_different_axes() -> None:
    noise = pictures(2, (40, 40), 0, "noise", levels=False)
    for first, second, strengths, seen in (
        (Rotate(), ShearX(), (20.0, 0.2), True),
        (ShearX(), TranslateX(), (0.2, 0.11), True),
        (TranslateX(), TranslateY(), (0.11, 0.13), False),  # linear along x, then along y, is what one pass does
    ):
        params = {op.name: torch.full((2, 1), s) for op, s in zip((first, second), strengths, strict=True)}
        separate, folded = (Pipeline([first, second], exact=exact).apply(noise, params) for exact in (True, False))
        difference = (separate - folded)[:, :, 12:-12, 12:-12].abs()  # no black here
        assert difference.mean() > 0.02 if seen else difference.max() < 1e-4


def test_only_neighbouring_moves_are_folded() -> None:
    rotate, shear_x, shear_y, translate, _ = MOVES
    ops = [rotate, shear_x, Invert(), shear_y, HorizontalFlip(), translate]
    assert [len(stage) for stage in stages(ops)] == [1] * 6
    assert [len(stage) for stage in stages(ops, exact=False)] == [2, 1, 1, 1, 1]
    images = pictures(4, (20, 26), 0, "noise", levels=False)
    for op in MOVES:
        params = {op.name: op.sample(4, torch.Generator().manual_seed(0))}
        assert torch.equal(Pipeline([op], exact=False).apply(images, params), Pipeline([op]).apply(images, params))
