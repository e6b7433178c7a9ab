"""A badge is a digit of its own, laid over a scene or all its views, which are otherwise what they were."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

from mastlib.augment.presets import get_pipeline
from mastlib.data import bank, scenes
from mastlib.data.badges import DIGITS, Badges, badged, keycaps
from mastlib.data.pretraining import _latents, pretraining_images
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
    assert torch.equal(source_of("openemoji", 0.2).images(COUNT, SIZE).images, expected), "badges are laid over views"


@pytest.mark.parametrize("badge", [0.1, 0.4])
def test_only_pixels_of_the_badge_change(badge):
    plain = pretraining_images("openemoji", COUNT, SIZE)
    latents = badged(_latents("openemoji", COUNT), np.arange(COUNT), badge, 3)
    seen = scenes.Renderer(bank.load_bank().images, bank.load_backgrounds(), SIZE)(latents).images
    changed = (plain != seen).any(dim=1)
    centre = (torch.arange(SIZE) + 0.5) / SIZE
    away = [(centre - torch.from_numpy(latents[name][:, 1:])).abs() for name in ("y", "x")]
    reach = badge / 2 + 1 / SIZE  # a pixel is interpolated from neighbours
    near = (away[0] < reach)[:, :, None] & (away[1] < reach)[:, None]
    sharp = torch.from_numpy(latents["blur"] == 0)
    assert sharp.sum() > COUNT / 2 and not (changed & ~near)[sharp].any()
    inside = (away[0] < badge / 3)[:, :, None] & (away[1] < badge / 3)[:, None]
    assert changed[inside].float().mean() > 0.9


def shown(badge, index, versions=2, size=SIZE, seed=3):
    """What badges add over black, what they leave of white besides, and so their alpha: `(V, N, 3, S, S)` each."""
    views = torch.zeros(versions, len(index), 3, size, size), torch.ones(versions, len(index), 3, size, size)
    for over in views:
        Badges(badge, size, seed).lay(over, index)
    return views[0], 1 - (views[1] - views[0])


def corner(covered):
    """The first row and column with a pixel that is covered, `(N, 2)`, of `(N, S, S)` bool."""
    return torch.stack([covered.any(dim).long().argmax(1) for dim in (2, 1)], dim=1)


@pytest.mark.parametrize("versions", [2, 7])
@pytest.mark.parametrize("badge", [0.01, 0.15, 0.4, 0.5])
def test_all_views_of_an_image_get_the_same_badge_in_the_same_place_and_keep_all_else(badge, versions):
    plain = torch.rand(versions, COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    laid, index = plain.clone(), torch.arange(COUNT)
    assert Badges(badge, SIZE, 3).lay(laid, index) is None
    colour, alpha = shown(badge, index, versions)
    assert torch.equal(colour, colour[:1].expand_as(colour)) and torch.equal(alpha, alpha[:1].expand_as(alpha))
    torch.testing.assert_close(laid, plain * (1 - alpha) + colour)
    assert torch.equal(laid[alpha == 0], plain[alpha == 0]) and laid.min() >= 0 and laid.max() <= 1
    covered = (alpha[0] > 0).any(1)
    side = max(1, round(badge * SIZE))
    for dim in (1, 2):
        along = covered.any(dim).float()
        reach = SIZE - along.flip(1).argmax(1) - along.argmax(1)
        assert (reach <= side).all() and (reach >= side - 1).float().mean() > 0.5


def test_a_badge_is_its_drawing_composed_over_the_view():
    side, index = 12, torch.arange(40)
    drawings, rows = bank.load_bank().images, keycaps()
    plain = torch.rand(2, 40, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    laid = plain.clone()
    Badges(side / SIZE, SIZE, 3).lay(laid, index)
    digit, vendor, across, down = scenes.uniforms(3, index.numpy(), 4).T
    for i in index.tolist():
        drawing = drawings[rows[int(vendor[i] * 5), int(digit[i] * 10)]].permute(1, 2, 0).numpy()
        # By another library, which resamples colours as alpha weighs them.
        small = Image.fromarray(drawing, "RGBA").resize((side, side), Image.Resampling.BILINEAR)
        top, left = (int(part[i] * (SIZE - side + 1)) for part in (down, across))
        for view in (0, 1):
            expected = Image.fromarray((plain[view, i].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), "RGB")
            expected.paste(small, (left, top), small)
            got = laid[view, i].permute(1, 2, 0).numpy() * 255
            assert np.abs(got - np.asarray(expected)).max() < 4, (i, view)


def test_badges_of_views_are_functions_of_the_index_whatever_the_batch():
    index = torch.arange(COUNT)
    colour, alpha = shown(0.3, index)
    mixed = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    for some in (mixed, index[40:48], index[:1]):
        again = shown(0.3, some)
        assert torch.equal(again[0], colour[:, some]) and torch.equal(again[1], alpha[:, some])
    assert not torch.equal(shown(0.3, index, seed=4)[0], colour)


def test_views_have_each_digit_as_often_and_anywhere():
    """A badge is told by its pixels, of the fifty that there are."""
    count, side = 4000, 10
    colour, alpha = (part[0] for part in shown(side / SIZE, torch.arange(count), 1))
    sprites = {}
    pixels = Badges(side / SIZE, SIZE, 3).layers[..., :3]
    for which, sprite in enumerate(pixels.numpy()):
        sprites[sprite.tobytes()] = which % 10
    assert len(sprites) == 50
    _, _, across, down = scenes.uniforms(3, np.arange(count), 4).T
    places = np.stack([down, across], axis=1) * (SIZE - side + 1)
    digits = []
    for image, (top, left) in zip(colour, places.astype(int), strict=True):
        digits.append(sprites[image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy().tobytes()])
    assert chisquare(np.bincount(digits, minlength=10)).pvalue > 1e-3
    found = corner((alpha > 0).any(1))
    assert found.min() <= 1 and found.max() >= SIZE - side and len(found.unique(dim=0)) > 400
    counts = np.array(
        [[(np.array(digits)[places[:, 0] // 8 == row] == d).sum() for d in range(10)] for row in range(3)]
    )
    assert chi2_contingency(counts).pvalue > 1e-3


def test_views_are_written_to_again_at_every_step_and_badges_do_not_stay():
    pipeline, images = get_pipeline("standard5", SIZE), pretraining_images("openemoji", COUNT, SIZE)
    first = pipeline.views(images, generator=torch.Generator().manual_seed(0)).images
    room = first.clone()
    Badges(0.4, SIZE, 3).lay(room, torch.arange(COUNT))
    assert not torch.equal(room, first)
    assert torch.equal(pipeline.views(images, generator=torch.Generator().manual_seed(0), out=room).images, first)


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
    with pytest.raises(InputError, match="^badge = .* cannot be used; accepted: a number "):
        Badges(badge, SIZE, 3)


def test_badges_are_not_laid_over_a_folders_images(tmp_path):
    with pytest.raises(InputError) as refusal:
        source_of(str(tmp_path), 0.2)
    assert str(refusal.value).startswith("badge = 0.2 cannot be used; accepted: 0 with data = ")
    assert "\n" not in str(refusal.value)
