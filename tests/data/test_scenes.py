"""Scenes are functions of (seed, index), and what the latents say is what the picture shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mastlib.data import scenes
from mastlib.data.scenes import LATENTS, MULTIPLE, OBJECTS, Ranges, Renderer, draw
from mastlib.errors import InputError

STILL = Ranges(
    x=(0.5, 0.5), y=(0.5, 0.5), scale=(0.5, 0.5), rotation=(0, 0), value=(1, 1), light_strength=(0, 0),
    light_saturation=(0, 0), background_saturation=(0, 0), background_value=(0.5, 0.5), blurred=0.0, exposure=(0, 0),
)  # fmt: skip


def bank(n=6):
    """A red square, a blue left half, and random drawings; opaque where they are."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 4, 64, 64), dtype=torch.uint8, generator=g)
    images[:, 3] = 255
    images[0] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)[:, None, None]
    images[1] = 0
    images[1, 2:, :, :32] = 255
    return images


BACKGROUNDS = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def render(ranges, n=16, size=32, seed=0, sprite=None, **fixed):
    rows = None if sprite is None else np.full((n, 1), sprite)
    latents = draw(seed, np.arange(n), ranges, len(BACKGROUNDS), weights=np.ones(6), sprite=rows)
    latents.update({k: np.full_like(latents[k], v) for k, v in fixed.items()})
    return Renderer(bank(), BACKGROUNDS, size)(latents), latents


@pytest.mark.parametrize("ranges", [OBJECTS, LATENTS, MULTIPLE])
def test_scenes_do_not_depend_on_batch_or_order(ranges):
    index = np.arange(100, 140)
    whole = draw(3, index, ranges, 5, weights=np.ones(6))
    shuffled = np.random.default_rng(0).permutation(40)
    part = draw(3, index[shuffled[:7]], ranges, 5, weights=np.ones(6))
    for name, values in whole.items():
        np.testing.assert_array_equal(values[shuffled[:7]], part[name])
    renderer = Renderer(bank(), BACKGROUNDS, 24)
    all_at_once = renderer(whole)
    some = renderer(part)
    assert torch.equal(all_at_once.images[shuffled[:7]], some.images)
    other = draw(4, index, ranges, 5, weights=np.ones(6))
    assert not np.array_equal(whole["x"], other["x"])


def test_uniform_numbers_are_uniform_and_independent_across_streams():
    u = scenes.uniforms(7, np.arange(20_000), 6)
    assert u.min() >= 0 and u.max() < 1
    for column in u.T:  # Kolmogorov-Smirnov at a level that a sound generator passes
        from scipy.stats import kstest

        assert kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(u, rowvar=False) - np.eye(6)
    assert np.abs(correlation).max() < 0.03
    neighbours = np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03


def test_latents_stay_in_their_ranges():
    latents = draw(0, np.arange(2000), LATENTS, 5, weights=np.ones(6))
    for name in ("x", "scale", "rotation", "hue_shift", "exposure"):
        low, high = getattr(LATENTS, name)
        assert low <= latents[name].min() and latents[name].max() <= high
        assert latents[name].max() - latents[name].min() > 0.95 * (high - low)


def test_sprite_weights_are_probabilities():
    weights = np.array([0, 1, 0, 3, 0, 0.0])
    drawn = draw(0, np.arange(8000), OBJECTS, 5, weights=weights)["sprite"][:, 0]
    assert set(drawn) == {1, 3}
    assert np.mean(drawn == 3) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("x,y,scale", [(0.5, 0.5, 0.5), (0.25, 0.5, 0.25), (0.625, 0.75, 0.375)])
def test_box_and_mask_lie_where_position_and_scale_say(x, y, scale):
    out, _ = render(STILL, n=2, size=64, sprite=0, x=x, y=y, scale=scale)
    expected = torch.tensor([x - scale / 2, y - scale / 2, x + scale / 2, y + scale / 2]) * 64
    torch.testing.assert_close(out.boxes[0, 0], expected, atol=1.0, rtol=0)
    assert abs(int(out.masks[0, 0].sum()) - (scale * 64) ** 2) <= 0.05 * (scale * 64) ** 2
    centre = out.images[0, :, int(y * 64), int(x * 64)]
    assert centre.tolist() == [255, 0, 0]


def test_rotation_is_counter_clockwise():
    """The blue half lies on the left; a quarter turn counter-clockwise brings it to the bottom."""
    out, _ = render(STILL, n=1, size=64, sprite=1, rotation=0.25, scale=0.8)
    x0, y0, x1, y1 = out.boxes[0, 0].tolist()
    assert (y0 + y1) / 2 > 36 and abs((x0 + x1) / 2 - 32) <= 1.5


def test_hue_shift_turns_red_to_green_and_exposure_is_in_stops():
    out, _ = render(STILL, n=1, sprite=0, hue_shift=1 / 3)
    assert out.images[0, :, 16, 16].tolist() == [0, 255, 0]
    plain, _ = render(STILL, n=1, sprite=0, value=0.4)
    darker, _ = render(STILL, n=1, sprite=0, value=0.4, exposure=-1.0)
    assert int(darker.images[0, 0, 16, 16]) == pytest.approx(int(plain.images[0, 0, 16, 16]) / 2, abs=1)


def test_light_brightens_the_side_it_comes_from():
    images = bank()
    images[0] = 0
    disc = ((torch.arange(64)[:, None] - 31.5) ** 2 + (torch.arange(64) - 31.5) ** 2) < 30**2
    images[0, :, disc] = 128
    images[0, 3, disc] = 255
    latents = draw(0, np.arange(1), STILL, 5, sprite=np.zeros((1, 1), dtype=int))
    for direction, bright, dark in ((0.0, (16, 22), (16, 9)), (0.25, (9, 16), (22, 16))):  # from the right, from above
        latents["light_direction"][:], latents["light_strength"][:] = direction, 1.0
        picture = Renderer(images, BACKGROUNDS, 32)(latents).images[0, 0]
        assert int(picture[bright]) > int(picture[dark]) + 10


def test_blur_keeps_the_mean_and_lowers_the_contrast():
    sharp, _ = render(replace(STILL, background_value=(0, 0)), n=1, sprite=0)
    soft, _ = render(replace(STILL, background_value=(0, 0)), n=1, sprite=0, blur=0.04)
    a, b = sharp.images.float(), soft.images.float()
    assert float(b.mean()) == pytest.approx(float(a.mean()), rel=0.02)
    assert b.diff(dim=-1).abs().max() < 0.6 * a.diff(dim=-1).abs().max()


def test_visible_masks_are_disjoint_and_boxes_fit_them():
    out, latents = render(MULTIPLE, n=64, size=48)
    assert (out.masks.sum(1) <= 1).all()
    count = (latents["sprite"] >= 0).sum(1)
    assert set(count) == {2, 3, 4, 5}
    absent = torch.from_numpy(latents["sprite"] < 0)
    assert not out.masks[absent].any() and not out.boxes[absent].any()
    for mask, box in zip(out.masks.flatten(0, 1)[:40], out.boxes.flatten(0, 1)[:40], strict=True):
        if mask.any():
            ys, xs = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_bad_ranges_are_refused():
    with pytest.raises(InputError, match="scale"):
        Ranges(scale=(0.9, 0.2))
    with pytest.raises(InputError, match="image_size"):
        Renderer(bank(), BACKGROUNDS, 4)
    with pytest.raises(InputError, match="seed"):
        draw(-1, np.arange(2), OBJECTS, 5, weights=np.ones(6))
