"""Pools hold the images their tables describe, and are rendered once."""

import numpy as np
import pytest
import torch

from mastlib.data import bank, pools
from mastlib.data.pools import load_pool, pretraining_images
from mastlib.errors import InputError
from mastlib.files import outputs_dir


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


def test_a_set_is_rendered_once_and_read_from_the_cache(monkeypatch):
    first = pretraining_images("openemoji", 80, 16).clone()

    def never(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(pools.scenes, "Renderer", never)
    assert torch.equal(pretraining_images("openemoji", 80, 16), first)
    with pytest.raises(AssertionError, match="rendered again"):
        pretraining_images("openemoji", 81, 16)


def test_writing_to_images_does_not_change_the_file():
    pretraining_images("openemoji", 80, 16)[:] = 0
    assert pretraining_images("openemoji", 80, 16).any()


def test_a_failed_rendering_leaves_nothing_behind(monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pools.scenes.Renderer, "__call__", broken)
    with pytest.raises(InputError, match="No space left"):
        pretraining_images("openemoji", 90, 16)
    assert not [p for p in (outputs_dir() / "cache").iterdir() if "tmp" in p.name]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: load_pool("faces", 16), "pool"),
        (lambda: load_pool("objects", 16, limit=0), "limit"),
        (lambda: pretraining_images("imagenet", 80, 16), "data"),
        (lambda: pretraining_images("openemoji", 80, 4), "image_size"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(InputError, match=word):
        call()
