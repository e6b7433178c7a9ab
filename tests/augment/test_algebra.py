"""Targets and descriptors, against views of images on which the answer can be seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mastlib.augment import (
    DESCRIPTORS,
    HorizontalFlip,
    Pipeline,
    RandomResizedCrop,
    Rot90,
    Views,
    descriptors,
    differences,
    get_pipeline,
    seen_crop,
)
from mastlib.errors import InputError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_of(params: dict[str, list[list[list[float]]]]) -> Views:
    """Views with these parameters and nothing else to them."""
    rows = {name: torch.tensor(values) for name, values in params.items()}
    n = next(iter(rows.values())).shape[1]
    return Views(torch.zeros(2, n, 3, 4, 4), rows, {}, torch.zeros(n).long())


def swapped(views: Views) -> Views:
    return Views(views.images.flip(0), {k: v.flip(0) for k, v in views.params.items()}, views.applied, views.changed)


def test_the_seen_crop_is_where_a_ramp_says_it_is() -> None:
    """A picture whose colours are its own coordinates: the view's mean and spread tell the crop, turned as the view is."""
    side = 64
    at = (torch.arange(side) + 0.5) / side
    ramp = torch.stack([at[:, None].expand(side, side), at.expand(side, side), torch.zeros(side, side)])[None]
    pipeline = Pipeline([RandomResizedCrop(side), HorizontalFlip(), Rot90()])
    params, _ = pipeline.sample(40, seeded())
    views = pipeline.apply(ramp.expand(40, -1, -1, -1), params)
    for view, row, turns, flip in zip(
        views, seen_crop(params), params["rot90"][:, 0], params["flip"][:, 0], strict=True
    ):
        source_y, source_x = view[0].mean().item(), view[1].mean().item()
        x = 1 - source_x if flip else source_x
        y, x = {0: (source_y, x), 1: (1 - x, source_y), 2: (1 - source_y, 1 - x), 3: (x, 1 - source_y)}[int(turns)]
        assert row[:2].tolist() == pytest.approx([y, x], abs=0.01)
        rows_run_over_y = (view[0].amax(1) - view[0].amin(1)).mean() < (view[0].amax(0) - view[0].amin(0)).mean()
        spread_y = (view[0].max() - view[0].min()).item()
        assert rows_run_over_y == (int(turns) % 2 == 0)
        assert (row[2] if rows_run_over_y else row[3]).item() == pytest.approx(spread_y, abs=0.03)


def test_same_crop_with_one_view_flipped() -> None:
    crop = [0.5, 0.3, 0.4, 0.6]
    one = differences(views_of({"crop": [[crop], [crop]], "flip": [[[1.0]], [[0.0]]]}))
    torch.testing.assert_close(one["crop"], torch.tensor([[0.0, 1 - 2 * 0.3, 0.0, 0.0]]))
    assert one["flip"].item() == 0


def test_both_flipped_changes_the_sign_of_x_alone() -> None:
    crops = [[[0.5, 0.3, 0.4, 0.6]], [[0.4, 0.7, 0.5, 0.5]]]
    neither = differences(views_of({"crop": crops, "flip": [[[0.0]], [[0.0]]]}))
    both = differences(views_of({"crop": crops, "flip": [[[1.0]], [[1.0]]]}))
    torch.testing.assert_close(both["crop"], neither["crop"] * torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert both["flip"].item() == neither["flip"].item() == 1


@pytest.mark.parametrize("name", ["standard5", "augself_rot", "augself_sol", "extended15"])
def test_exchanging_the_views_turns_every_target_round(name: str) -> None:
    views = get_pipeline(name, 16).views(torch.rand(200, 3, 16, 16), generator=seeded())
    there, back = (differences(pair, blur_range=0.34) for pair in (views, swapped(views)))  # 2 pixels x 16 / 96
    assert set(there) == {"crop", "flip", "color", "blur"} | {
        "augself_rot": {"rot90"}, "augself_sol": {"solarize"}, "extended15": {"solarize"}, "standard5": set(),
    }[name]  # fmt: skip
    for key, value in there.items():
        if key == "flip":
            assert torch.equal(back[key], value)
        elif key == "rot90":
            assert torch.equal(back[key], (4 - value) % 4) and set(value.tolist()) == {0, 1, 2, 3}
        else:
            torch.testing.assert_close(back[key], -value)
            assert value.abs().max() <= 1 and value.abs().max() > 0.25
    same = differences(Views(views.images, {k: v[:1].expand_as(v) for k, v in views.params.items()}, {}, views.changed))
    assert (same.pop("flip") == 1).all() and all((value == 0).all() for value in same.values())


def test_blur_is_measured_against_its_range() -> None:
    views = views_of({"blur": [[[2.0]], [[0.0]]]})
    assert differences(views)["blur"].item() == 1 and differences(views, blur_range=4.0)["blur"].item() == 0.5
    with pytest.raises(InputError, match=r"blur_range = 1.0.*2"):
        differences(views, blur_range=1.0)


def test_descriptors_are_joined_by_the_alphabet_and_zero_where_nothing_was_done() -> None:
    pipeline, images = get_pipeline("standard5", 16), torch.rand(300, 3, 16, 16)
    views = pipeline.views(images, generator=seeded(), color_diff=True)
    told = descriptors(views, ["crop", "color_diff", "blur", "flip", "grayscale", "color"])
    assert told.shape == (2, 300, 14) and sum(DESCRIPTORS.values()) == 14
    blur, color, color_diff, crop, flip, gray = told.split(list(DESCRIPTORS.values()), dim=-1)
    assert torch.equal(blur, views.params["blur"]) and torch.equal(color, views.params["color"][..., :4])
    assert torch.equal(crop, seen_crop(views.params)) and torch.equal(flip, views.params["flip"])
    assert torch.equal(gray, views.applied["grayscale"].float()[..., None])
    off = ~views.applied["color"]
    assert off.any() and (color[off] == 0).all() and (color_diff[off] == 0).all()


def test_color_diff_is_the_change_of_the_channels_means_on_the_flipped_crop() -> None:
    pipeline, images = get_pipeline("standard5", 16), torch.rand(50, 3, 20, 20)
    views = pipeline.views(images, generator=seeded(), color_diff=True)
    for v in range(2):
        rows = {k: x[v] for k, x in views.params.items()}
        cut = Pipeline(pipeline.ops[:2]).apply(images, rows)
        jittered = pipeline.ops[2].apply(cut, rows["color"])
        torch.testing.assert_close(views.color_diff[v], cut.mean((2, 3)) - jittered.mean((2, 3)), atol=1e-5, rtol=0)
    assert pipeline.views(images, generator=seeded()).color_diff is None


def refusal(do: object) -> str:
    with pytest.raises(InputError) as error:
        do()  # type: ignore[operator]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_requests_are_refused() -> None:
    images: Tensor = torch.rand(4, 3, 16, 16)
    views = get_pipeline("spatial", 16).views(images)
    assert "sharpness" in refusal(lambda: descriptors(views, ["sharpness"]))
    assert "no augmentation of these views" in refusal(lambda: descriptors(views, ["blur"]))
    assert "color_diff=True" in refusal(lambda: descriptors(views, ["color_diff"]))
    assert "keys" in refusal(lambda: descriptors(views, "crop")) and "keys" in refusal(lambda: descriptors(views, []))
    assert "keys" in refusal(lambda: descriptors(views, ["crop", "crop"]))
    assert "color_diff" in refusal(lambda: get_pipeline("spatial", 16).views(images, color_diff=True))
    assert "two views" in refusal(lambda: differences(Views(images[None], {}, {}, torch.zeros(4))))
