"""Pools hold the images their tables describe, and are rendered once."""

import numpy as np
import pandas as pd
import pytest
import torch

from mastlib.data import bank, rendered, scenes
from mastlib.data.pools import BOX, LATENTS_SEED, MIRRORED_SEED, load_pool, side_of
from mastlib.data.pretraining import OBJECTS_SEED, pretraining_images
from mastlib.data.splits import concept_split
from mastlib.errors import InputError
from mastlib.files import outputs_dir


def once():
    """Weights that give every concept the same."""
    table = bank.load_table()
    return 1 / table.groupby("concept")["concept"].transform("size").to_numpy()


def mirrored_latents(pool):
    table = bank.load_table()
    rows = np.flatnonzero(table["facing"] == "left").repeat(2)
    assert list(table["key"].iloc[rows]) == list(pool.table["key"])
    index = np.arange(len(rows))
    return scenes.draw(MIRRORED_SEED, index, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])


def test_objects_pool_rows_are_bank_rows_with_their_labels():
    pool = load_pool("objects", 16, limit=300)
    assert len(pool.images) == len(pool.table) <= 300 and pool.images.dtype == torch.uint8
    table = bank.load_table().set_index(["vendor", "key"])
    for row in pool.table.sample(20, random_state=0).itertuples():
        assert table.loc[(row.vendor, row.key), "concept"] == row.concept
    assert set(pool.table["split"]) == {"train", "val", "test"}
    assert pool.table.groupby("concept")["split"].nunique().max() == 1


def test_the_picture_is_the_one_that_the_table_says():
    """A drawing whose mean colour is known by the bank shows in its scene: correlation over drawings."""
    pool = load_pool("objects", 32, limit=300)
    loaded = bank.load_bank()
    row_of = {(v, k): i for i, (v, k) in enumerate(zip(loaded.table["vendor"], loaded.table["key"], strict=True))}
    rows = [row_of[v, k] for v, k in zip(pool.table["vendor"], pool.table["key"], strict=True)]
    rgba = loaded.images[rows].float()
    drawn = (rgba[:, :3] * rgba[:, 3:]).sum((2, 3)) / rgba[:, 3:].sum((2, 3))
    shown = pool.images[:, :, 12:20, 12:20].float().mean((2, 3))
    for c in range(3):
        right = np.corrcoef(drawn[:, c], shown[:, c])[0, 1]
        wrong = np.corrcoef(drawn[:, c].roll(1), shown[:, c])[0, 1]
        assert right > 0.5 > wrong + 0.2


def test_latents_pool_varies_what_objects_keeps():
    latents, objects = load_pool("latents", 16, limit=200), load_pool("objects", 16, limit=200)
    for name in ("hue_shift", "rotation", "x"):
        assert latents.table[name].std() > 3 * objects.table[name].std()
    assert latents.fingerprint != objects.fingerprint


def test_a_box_is_where_pixels_change_with_the_object():
    """Where nothing but the object's brightness changes: the pixels that change by a third of the most or more fill the box."""
    pool = load_pool("latents", 32, limit=60)
    latents = scenes.draw(LATENTS_SEED, np.arange(60), scenes.LATENTS, bank.background_count(), weights=once())
    for name, value in (("blur", 0), ("light_strength", 0), ("light_saturation", 0), ("exposure", -0.5)):
        latents[name][:] = value
    render = scenes.Renderer(bank.load_bank().images, bank.load_backgrounds(), 32)
    bright, dark = (render(latents | {"value": np.full_like(latents["value"], v)}).images.int() for v in (1.0, 0.2))
    change = (bright - dark).abs().amax(dim=1)
    clear = change.flatten(1).amax(dim=1) > 100  # a drawing that is black all over shows nothing
    found = scenes._boxes(change[clear, None] > change[clear].amax(dim=(1, 2))[:, None, None, None] / 3)[:, 0]
    expected = torch.tensor(pool.table[list(BOX)].to_numpy())[clear] * 32
    assert clear.sum() > 40 and (found - expected).abs().amax(dim=1).median() <= 1
    assert ((pool.table[list(BOX)] >= 0) & (pool.table[list(BOX)] <= 1)).all(axis=None)


def test_quarters_turn_the_object_and_come_up_alike_in_every_category():
    pool = load_pool("turned", 16)
    shares = pool.table.groupby("category")["turn"].value_counts(normalize=True)
    assert shares.between(0.15, 0.35).all() and pool.table["tone"].isna().all()
    turns = pool.table["turn"].str[0].astype(int) / 4
    np.testing.assert_allclose(pool.table["rotation"] - turns, 0, atol=0.0301)


def test_each_activity_is_there_as_it_is_and_mirrored_in_scenes_of_their_own():
    pool = load_pool("mirrored", 16)
    assert pool.table["faces"].value_counts().nunique() == 1 and (pool.table["facing"] == "left").all()
    assert set(pool.table.groupby(["vendor", "key"])["faces"].agg("".join)) == {"leftright"}
    assert pool.table.groupby("split")["concept"].nunique().to_dict() == {"test": 3, "train": 2, "val": 1}
    made = rendered.rendered("mirrored", mirrored_latents(pool), 16)
    assert torch.equal(pool.images[1::2].flip(3), made.images[1::2]) and torch.equal(pool.images[::2], made.images[::2])


def test_scenes_of_several_hold_concepts_of_their_side_alone():
    pool = load_pool("several", 16, limit=100)
    assert pool.images.shape == (100, 3, 32, 32) and set(pool.table["split"]) == {"train", "val", "test"}
    split = concept_split(bank.load_table()["concept"])
    there = pool.sprites >= 0
    assert there.sum(dim=1).min() == 2 and there.sum(dim=1).max() == 5
    for side, sprites in zip(pool.table["split"], pool.sprites, strict=True):
        assert set(split[sprites[sprites >= 0]]) == {side}
    masks = rendered.unpack(pool.masks, 32)
    assert torch.equal(scenes._boxes(masks), pool.boxes) and not masks[~there].any()


def test_badged_scenes_are_those_of_objects_with_a_badge():
    pool, table = load_pool("badged", 16, 400, badge=0.4), bank.load_table()
    rows = pool.sprites[:, 0].numpy()
    assert (np.diff(rows) > 0).all() and "keycap" not in set(pool.table["subcategory"])
    pd.testing.assert_frame_equal(pool.table[list(table)], table.iloc[rows].reset_index(drop=True))
    plain = scenes.draw(OBJECTS_SEED, rows, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])
    for name in ("x", "scale", "rotation", "background_value"):
        assert np.array_equal(pool.table[name], plain[name].ravel())
    assert pd.crosstab(pool.table["split"], pool.table["badge_vendor"]).shape == (3, len(bank.VENDORS))
    assert set(pool.table["digit"]) == set("0123456789") and set(pool.table["badge"]) == {0.4}
    smaller = load_pool("badged", 16, 400, badge=0.2)
    assert pool.fingerprint != smaller.fingerprint and pool.table["digit"].equals(smaller.table["digit"])


def test_the_digit_of_a_badge_is_the_one_that_its_scene_shows():
    """Rendered anew with each of its vendor's digits, by their names, a scene is the pool's with the one of the table alone."""
    pool, loaded = load_pool("badged", 32, 40, badge=0.4), bank.load_bank()
    rows = pool.sprites[:, 0].numpy()
    latents = scenes.draw(OBJECTS_SEED, rows, scenes.OBJECTS, bank.background_count(), sprite=rows[:, None])
    place = {"x": pool.table["badge_x"], "y": pool.table["badge_y"], "scale": 0.4, "value": 1}
    for name in ("x", "y", "scale", "value", "rotation", "hue_shift"):
        second = np.full(len(rows), place.get(name, 0), dtype=np.float32)
        latents[name] = np.stack([latents[name][:, 0], second], axis=1)
    keycaps = loaded.table[loaded.table["subcategory"] == "keycap"]
    drawn = np.concatenate([rows, keycaps.index])
    render = scenes.Renderer(loaded.images[torch.from_numpy(drawn)], bank.load_backgrounds(), 32)
    place_of = {key: len(rows) + i for i, key in enumerate(zip(keycaps["vendor"], keycaps["name"], strict=True))}
    for digit in "0123456789":
        shown = [place_of[vendor, f"keycap {digit}"] for vendor in pool.table["badge_vendor"]]
        made = render(latents | {"sprite": np.stack([np.arange(len(rows)), shown], axis=1)}).images
        same = (made == pool.images).flatten(1).all(dim=1)
        assert same.tolist() == (pool.table["digit"] == digit).tolist(), digit


def test_a_set_is_rendered_once_and_read_from_the_cache(monkeypatch):
    first = pretraining_images("openemoji", 80, 16).clone()

    def never(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(rendered.scenes, "Renderer", never)
    assert torch.equal(pretraining_images("openemoji", 80, 16), first)
    with pytest.raises(AssertionError, match="rendered again"):
        pretraining_images("openemoji", 81, 16)


def test_writing_to_images_does_not_change_the_file():
    pretraining_images("openemoji", 80, 16)[:] = 0
    assert pretraining_images("openemoji", 80, 16).any()


def test_a_failed_rendering_leaves_nothing_behind(monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rendered.scenes.Renderer, "__call__", broken)
    with pytest.raises(InputError, match="No space left"):
        pretraining_images("openemoji", 90, 16)
    assert not [p for p in (outputs_dir() / "cache").iterdir() if "tmp" in p.name]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: load_pool("faces", 16), "pool"),
        (lambda: load_pool("objects", 16, limit=0), "limit"),
        (
            lambda: load_pool("objects", 16, badge=0.2),
            "^badge = 0.2 cannot be used; accepted: 0 with the pool 'objects'",
        ),
        (lambda: load_pool("badged", 16), "^badge = 0.0 cannot be used; accepted: a number above 0, at most 0.5"),
        (lambda: pretraining_images("imagenet", 80, 16), "data"),
        (lambda: pretraining_images("openemoji", 80, 4), "image_size"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


def test_a_side_is_evenly_covered():
    pool = load_pool("objects", 16)
    every = np.flatnonzero(pool.table["split"] == "val")
    rows = side_of(pool, "val", 50)
    assert len(rows) == 50 and set(rows) <= set(every) and {every[0], every[-1]} <= set(rows)
    assert np.ptp(np.diff(np.searchsorted(every, rows))) <= 1
    np.testing.assert_array_equal(side_of(pool, "val", 10**6), every)
