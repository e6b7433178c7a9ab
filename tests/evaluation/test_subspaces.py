"""Variation by augmentation in closed form, its share in a subspace by hand, and what is the subspace's own."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from mastlib.augment import HorizontalFlip, Invert, Pipeline, VerticalFlip
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.subspaces import embeddings, invariance, own, pixel_variation, trained_method, variation
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 10), "image_size": 16, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3, "augmentations": "standard5",
}  # fmt: skip
MAST = {"awareness": "mast", "pairing": "isolate_one", "uncertainty": "none"}


def images(n: int = 300) -> torch.Tensor:
    return (
        torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))
        ** torch.linspace(0.3, 3, n)[:, None, None, None]
    )


def test_channel_means_vary_under_inversion_alone_and_by_the_closed_form():
    pipeline = Pipeline([HorizontalFlip(), VerticalFlip(), Invert()])
    squared, spread = variation(lambda views: views.mean(dim=(2, 3)), pipeline, images())
    means = images().double().mean(dim=(2, 3))
    torch.testing.assert_close(
        squared[:2], torch.zeros(2, 3).double(), atol=1e-12, rtol=0
    )  # flips move, they change no mean
    torch.testing.assert_close(squared[2], (1 - 2 * means).square().mean(dim=0), atol=1e-6, rtol=0)
    assert spread.shape == (3,) and (spread > 0).all()


def test_pixels_of_plain_images_vary_under_inversion_alone_and_by_the_closed_form():
    levels = torch.linspace(0, 1, 200)
    plain = levels[:, None, None, None].expand(-1, 3, 4, 4)
    found = pixel_variation(Pipeline([HorizontalFlip(), Invert()]), plain)
    assert found["flip"] == 0
    expected = (1 - 2 * levels).square().mean() / (2 * levels.var())  # up to which images view 0 had inverted already
    assert found["invert"] == pytest.approx(float(expected), rel=0.1)


def test_a_subspace_weighs_dimensions_by_its_mask_and_the_full_space_all_alike():
    run = fit(RunSpec(**TINY, **MAST, mask_type="blocks"), progress=False)
    table, names = invariance(run, images(40), seed=3), run.info["augmentations"]
    squared, spread = variation(embeddings(trained_method(run)), get_pipeline("standard5", 16), images(40), seed=3)
    masks = read_masks(run)
    assert list(table.columns) == names and list(table.index) == [*names, "full space"]
    for k, name in enumerate(names):
        mine = masks[k] == 1
        expected = squared[:, mine].sum(dim=1) / (2 * spread[mine].sum())
        assert table.loc[name].tolist() == pytest.approx(expected.tolist())
    assert table.loc["full space"].tolist() == pytest.approx((squared.sum(dim=1) / (2 * spread.sum())).tolist())


@pytest.mark.parametrize("changes", [{}, {**MAST, "mask_on": "representation"}])
def test_runs_without_masks_on_the_embedding_are_refused(changes):
    with pytest.raises(InputError, match="mask_on = 'embedding'"):
        invariance(fit(RunSpec(**TINY, **changes), progress=False), images(4))


def test_own_is_judged_relative_to_the_full_space():
    table = pd.DataFrame(
        {"crop": [0.4, 0.2, 0.8], "flip": [0.01, 0.004, 0.01]}, index=["crop", "flip", "full space"]
    )  # relative: crop .5, 1; flip .25, .4. Without that, flip would be every row's least
    found = own(table)
    assert found["of_row"].tolist() == [True, False] and found["of_column"].tolist() == [False, True]
    assert found["ratio"].tolist() == pytest.approx([0.5, 0.4])
