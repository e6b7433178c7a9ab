"""What the chapter on augmentations shows: ranges, sweeps, the table of parameters, and the sliders."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from mastlib import explore, plots
from mastlib.augment import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    Invert,
    Op,
    Pipeline,
    Posterize,
    RandomResizedCrop,
    Rot90,
    Rotate,
    SolarizeAdd,
    VerticalFlip,
    get_pipeline,
)
from mastlib.errors import InputError

OPS = [*get_pipeline("extended15", 32).ops, Invert(), SolarizeAdd(), VerticalFlip(), Rot90()]
every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


def image(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height + width))


@every_op
def test_ranges_hold_all_that_is_drawn_and_are_not_much_wider(op: Op) -> None:
    ranges, drawn = op.ranges(), op.sample(4096, torch.Generator().manual_seed(1))
    assert len(ranges) == len(op.identity) == drawn.shape[1]
    for i, r in enumerate(ranges):
        assert r.low - 1e-5 <= drawn[:, i].min() and drawn[:, i].max() <= r.high + 1e-5
        values = torch.cat(
            [drawn[:, i], op.identity[i : i + 1]]
        )  # an identity beyond what is drawn belongs to it or not
        assert r.high - r.low <= 1.25 * (values.max() - values.min()) + 1e-6
        if r.whole:
            assert torch.equal(values, values.round()) and r.low <= op.identity[i] <= r.high


@every_op
def test_a_sweep_goes_from_end_to_end_in_parameters_that_apply(op: Op) -> None:
    rows, ranges = explore.sweep(op, 5), op.ranges()
    assert 2 <= len(rows) <= 5
    got = op.apply(image().expand(len(rows), -1, -1, -1), rows)
    assert got.isfinite().all()
    if not isinstance(op, RandomResizedCrop):
        for i, r in enumerate(ranges):
            assert rows[0, i].item() == pytest.approx(r.low) and rows[-1, i].item() == pytest.approx(r.high)
            assert not r.whole or torch.equal(rows[:, i], rows[:, i].round())


def test_boxes_of_a_swept_crop_lie_in_the_frame() -> None:
    for op in (RandomResizedCrop((16, 16)), RandomResizedCrop((16, 32), aspect=2.0)):
        y, x, h, w = explore.sweep(op, 9).unbind(1)
        for centre, side in ((y, h), (x, w)):
            assert (centre - side / 2 >= -1e-6).all() and (centre + side / 2 <= 1 + 1e-6).all()
        assert h[-1] == w[-1] == 1


def test_one_parameter_swept_leaves_the_others_at_the_identity() -> None:
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.2)
    rows = explore.sweep(jitter, 5, "hue")
    assert rows[:, 3].tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5] and not rows[:, [0, 1, 2, 4]].any()
    heading, pictures, captions = explore.strip(jitter, image(), 5, "hue")
    assert "color: hue" in heading and captions == ["-0.50", "-0.25", "0.00", "+0.25", "+0.50"]
    assert torch.equal(pictures[2], image())


def test_as_many_steps_as_there_are_values_between() -> None:
    assert explore.sweep(Posterize(), 9).squeeze(1).tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert explore.sweep(Grayscale(), 5).squeeze(1).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, "size"), "parameter = 'size' cannot be used; accepted: one of sigma"),
        ((1,), "steps = 1"),
        ((2.5,), "steps = 2.5"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explore.sweep(GaussianBlur(), *arguments)


def test_the_table_has_a_row_per_parameter_from_the_code() -> None:
    table = explore.describe(OPS)
    assert len(table) == sum(len(op.identity) for op in OPS) and not table.isna().any().any()
    rotate = table.set_index("op").loc["rotate"]
    assert (rotate["unit"], rotate["identity"]) == ("degrees", 0.0) and "CLSA" in rotate["source"]
    assert -27 <= rotate["least"] < -26 and 26 < rotate["greatest"] <= 27
    assert table.equals(explore.describe(Pipeline(OPS)))


def test_strips_draw_every_picture_with_its_caption() -> None:
    rows = [explore.strip(op, image(16, 16)) for op in (Rotate(), Posterize(), Grayscale())]
    figure = plots.strips(rows, columns=2)
    try:
        assert len(figure.axes) == 5 + 5 + 2
        assert [ax.get_title() for ax in figure.axes[:5]] == rows[0][2]
        assert [text.get_text() for text in figure.texts] == [heading for heading, _, _ in rows]
        boxes = [ax.get_position() for ax in figure.axes]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    finally:
        plt.close(figure)


@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_a_picture_shown_has_square_pixels_and_its_own_colours(kind: str) -> None:
    levels = (image(8, 12) * 255).round().byte()
    data = explore.png(levels if kind == "uint8" else levels / 255)
    read = torch.from_numpy(plt.imread(io.BytesIO(data), format="png").copy())[..., :3].permute(2, 0, 1)
    zoom = read.shape[1] // 8
    assert read.shape == (3, 8 * zoom, 12 * zoom) and zoom > 1
    assert torch.equal((read[:, ::zoom, ::zoom] * 255).round().byte(), levels)


def test_sliders_begin_at_the_identity_and_redraw_with_the_augmentation() -> None:
    picture = image()
    box = explore.explorer(picture, Pipeline(OPS))
    menu, panel, pictures = box.children
    before, after = pictures.children
    assert len(menu.options) == len(OPS)
    for op in OPS:
        menu.value = op.name
        assert [slider.value for slider in panel.children] == pytest.approx(op.identity.tolist())
        assert after.value == before.value, op.name  # the identity changes nothing
    menu.value = "rotate"
    panel.children[0].value = 20.0
    expected = Rotate().apply(picture[None], torch.tensor([[20.0]]))[0]
    shown = [torch.from_numpy(plt.imread(io.BytesIO(png))) for png in (after.value, explore.png(expected))]
    assert torch.equal(*shown) and after.value != before.value
