"""A badge is a digit of its own, laid over a scene that is otherwise what it was."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from mastlib.data import bank, scenes
from mastlib.data.badges import DIGITS, badged, keycaps
from mastlib.data.pretraining import BADGE_SEED, _latents, pretraining_images, pretraining_labels
from mastlib.data.sources import source_of
from mastlib.errors import InputError

COUNT, SIZE = 96, 32


def over(count, badge, seed=3):
    latents = _latents("openemoji", count)
    return latents, badged(latents, np.arange(count), badge, seed)


def test_keycaps_are_the_digits_of_each_vendor():
    table, rows = bank.load_table(), keycaps()
    assert rows.shape == (5, 10) and len(np.unique(rows)) == 50
    assert (table["subcategory"].iloc[rows.ravel()] == "keycap").all()
    assert list(table["name"].iloc[rows.ravel()]) == [f"keycap {digit}" for digit in DIGITS] * 5
    assert list(table["vendor"].iloc[rows[:, 0]]) == list(bank.VENDORS)


def test_without_a_badge_images_are_those_of_the_scenes_to_the_last_bit():
    latents = _latents("openemoji", COUNT)
    drawn = bank.load_bank().images[torch.from_numpy(latents["sprite"][:, 0])]
    render = scenes.Renderer(drawn, bank.load_backgrounds(), SIZE)
    expected = render(latents | {"sprite": np.arange(COUNT)[:, None]}).images
    assert torch.equal(pretraining_images("openemoji", COUNT, SIZE), expected)
    assert torch.equal(pretraining_images("openemoji", COUNT, SIZE, 0.0), expected)
    assert torch.equal(source_of("openemoji", 0.0).images(COUNT, SIZE).images, expected)


@pytest.mark.parametrize("badge", [0.1, 0.4])
def test_only_pixels_of_the_badge_change(badge):
    plain, seen = pretraining_images("openemoji", COUNT, SIZE), source_of("openemoji", badge).images(COUNT, SIZE).images
    latents = badged(_latents("openemoji", COUNT), np.arange(COUNT), badge, BADGE_SEED)
    changed = (plain != seen).any(dim=1)
    centre = (torch.arange(SIZE) + 0.5) / SIZE
    away = [(centre - torch.from_numpy(latents[name][:, 1:])).abs() for name in ("y", "x")]
    reach = badge / 2 + 1 / SIZE  # a pixel is interpolated from neighbours
    near = (away[0] < reach)[:, :, None] & (away[1] < reach)[:, None]
    sharp = torch.from_numpy(latents["blur"] == 0)
    assert sharp.sum() > COUNT / 2 and not (changed & ~near)[sharp].any()
    inside = (away[0] < badge / 3)[:, :, None] & (away[1] < badge / 3)[:, None]
    assert changed[inside].float().mean() > 0.9
    assert torch.equal(source_of("openemoji", badge).labels(COUNT)[0], pretraining_labels("openemoji", COUNT)[0])


def test_scenes_keep_their_latents_and_badges_of_any_size_their_numbers():
    plain, small = over(500, 0.1)
    _, large = over(500, 0.4)
    for name, values in plain.items():
        assert np.array_equal(small[name][:, :1] if values.ndim == 2 else small[name], values), name
        assert small[name].dtype == values.dtype
    assert np.array_equal(small["sprite"], large["sprite"])
    for name in ("x", "y"):
        np.testing.assert_allclose((small[name][:, 1] - 0.05) / 0.9, (large[name][:, 1] - 0.2) / 0.6, atol=1e-6)
        assert small[name][:, 1].min() >= 0.05 and small[name][:, 1].max() <= 0.95
    again = badged({name: values[7:9] for name, values in plain.items()}, np.arange(7, 9), 0.1, 3)
    assert np.array_equal(again["sprite"], small["sprite"][7:9]) and np.array_equal(again["x"], small["x"][7:9])


def test_digits_are_as_likely_and_independent_of_object_vendor_and_place():
    latents, with_badge = over(20_000, 0.2)
    table, rows = bank.load_table(), keycaps()
    style, digit = (with_badge["sprite"][:, 1, None, None] == rows).nonzero()[1:]
    assert len(digit) == 20_000, "every badge is a digit's"
    assert all(chisquare(np.bincount(drawn, minlength=n)).pvalue > 1e-3 for drawn, n in ((digit, 10), (style, 5)))
    object_rows = latents["sprite"][:, 0]
    others = {
        "category": table["category"].fillna("none").iloc[object_rows].to_numpy(),
        "vendor of the object": table["vendor"].iloc[object_rows].to_numpy(),
        "vendor": style,
        **{name: (with_badge[name][:, 1] * 5).astype(int) for name in ("x", "y")},
        "background": (latents["background_hue"] * 5).astype(int),
    }
    for name, other in others.items():
        counts = np.array([[(digit[other == value] == d).sum() for d in range(10)] for value in np.unique(other)])
        assert chi2_contingency(counts).pvalue > 1e-3, name


@pytest.mark.parametrize("badge", [0, -0.1, 0.51, float("nan"), "large", True, None])
def test_a_size_that_cannot_be_used_is_named(badge):
    with pytest.raises(InputError, match="^badge = .* cannot be used; accepted: a number "):
        over(2, badge)


def test_badges_are_not_laid_over_a_folders_images(tmp_path):
    with pytest.raises(InputError) as refusal:
        source_of(str(tmp_path), 0.2)
    assert str(refusal.value).startswith("badge = 0.2 cannot be used; accepted: 0 with data = ")
    assert "\n" not in str(refusal.value)
