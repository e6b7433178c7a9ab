"""Uncertainty of a study's runs: against the analyses run by run, and with shuffled strengths nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from mastlib import doubt, experiments
from mastlib.data.pools import load_pool, side_of
from mastlib.errors import InputError
from mastlib.evaluation.calibration import calibration
from mastlib.evaluation.doses import Dose, by_strength, rises
from mastlib.evaluation.features import extract
from mastlib.evaluation.nearest import nearest
from mastlib.evaluation.rows import load_backbone
from mastlib.evaluation.uncertainty import mismatches, of_run, over_training, uncertainties
from mastlib.ledger.masked import strength
from mastlib.study import run_study, tier_pools

TINY = {"width": 4, "images": 128, "batch_size": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
NAMES = ["crop", "flip", "color", "grayscale", "blur"]


@pytest.fixture(scope="module")
def study():
    return run_study(experiments.uncertainty("smoke", "standard5", {**TINY, "lr": 0.1}), [0, 1], "smoke", ["category"])


def validation(count: int) -> torch.Tensor:
    pool = load_pool("objects", 16)
    return pool.images[torch.from_numpy(side_of(pool, "val", count))]


def test_shuffled_levels_leave_nothing_to_find():
    draw = torch.Generator().manual_seed(0)
    levels = torch.linspace(0, 1, 5).double()
    kind = torch.rand(400, 1, 1, generator=draw).double()
    values = kind * 3 + levels[:, None] * torch.tensor([1.0, -1.0]) + 0.01 * torch.rand(400, 5, 2, generator=draw)
    true = Dose(("up", "down"), levels, values)
    control = doubt.shuffled(true)
    assert torch.equal(control.values.sort(dim=1).values, values.sort(dim=1).values), "an image keeps its own values"
    found, nothing = rises({"it": true}, 99), rises({"it": control}, 99)
    assert found["within"].tolist() == [1, -1] and (found["p"] == 0.01).all()
    assert (nothing["within"].abs() < 0.1).all() and (nothing["spearman"].abs() < 0.1).all()


def test_strengths_are_those_of_the_doses(study):
    table = doubt.strengths(study, "MAST", 24)
    assert set(table["varied"]) == {*NAMES, doubt.OPERATIONS} and set(table["subspace"]) == set(NAMES)
    read, pipeline = of_run(study.runs["MAST", 1])
    tests = rises(by_strength(read, pipeline, validation(24), doubt.STEPS), doubt.SHUFFLES)
    expected = tests.query("varied == 'color' and subspace == 'color'").iloc[0]
    mine = table.query("seed == 1 and varied == 'color' and subspace == 'color'")
    assert len(mine) == doubt.STEPS and mine["level"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    for name in ("spearman", "within", "p"):
        assert (mine[name] == expected[name]).all()
    own = strength(table).set_index(["arm", "seed"])["value"]
    assert own["color", 1] == expected["spearman"] and len(own) == 10
    assert strength(table, "shuffled")["value"].abs().mean() < 0.25


def test_levels_are_told_relative_to_clean_images():
    keys = [("color", "color"), ("color", "crop"), ("color", "flip")]
    rows = [(s, *key, t, (1 + s) * (1 + t * k)) for s in (0, 1) for k, key in enumerate(keys) for t in (1.0, 0.0, 0.5)]
    found = doubt.by_level(pd.DataFrame(rows, columns=["seed", "varied", "subspace", "level", "mean"]))
    table = found.set_index(["varied", "whose", "x"])["mean"]
    assert table["color", "own subspace"].tolist() == pytest.approx([1, 1, 1])
    others = table["color", "the other subspaces"]
    assert others[[0.0, 0.5, 1.0]].tolist() == pytest.approx([1, 1.75, 2.5]) and (found["n"] == 2).all()


def test_errors_are_of_test_images_and_neighbours_that_probes_are_fitted_on(study):
    table = doubt.errors(study, "MAST", "smoke", bins=4)
    assert set(table["augmentation"]) == {*NAMES, doubt.ALL} and set(table["error"]) == {"neighbours", "probe"}
    run, pool = study.runs["MAST", 1], tier_pools("smoke", 16, ["category"])["objects"]
    split, labels = pool.table["split"].to_numpy(), pool.table["category"].to_numpy()
    features = extract(load_backbone(run), pool.images)
    known = pool.table["category"].notna().to_numpy()
    test, rest = known & (split == "test"), known & (split != "test")
    read = uncertainties(run, pool.images[torch.from_numpy(test)]).double().numpy()
    near = nearest(features[torch.from_numpy(test)], features[torch.from_numpy(rest)])[:, 0].numpy()
    wrong = (labels[rest][near] != labels[test]).astype(float)
    mine = table.query("seed == 1 and error == 'neighbours'").set_index("augmentation")
    assert mine.loc["flip", "n"].sum() == test.sum()
    assert mine.loc["flip", "spearman"].iloc[0] == pytest.approx(stats.spearmanr(read[:, 1], wrong).statistic)
    together = stats.spearmanr(stats.gmean(read, axis=1), wrong).statistic
    assert mine.loc[doubt.ALL, "spearman"].iloc[0] == pytest.approx(together, abs=1e-6)
    score = study.every_metric.query("seed == 1 and arm == 'MAST' and metric == 'accuracy'")["value"].iloc[0]
    probe = table.query("seed == 1 and error == 'probe' and augmentation == 'crop'")
    assert (probe["wrong"] * probe["n"]).sum() / probe["n"].sum() == pytest.approx(1 - score)


def test_pairs_are_calibrated_augmentation_by_augmentation(study):
    table = doubt.pairs(study, "MAST", 64, bins=4)
    predicted, observed = mismatches(study.runs["MAST", 0], validation(64))
    expected = calibration(predicted[:, 2], observed[:, 2], 4)
    mine = table.query("seed == 0 and augmentation == 'color'")
    assert mine["observed"].tolist() == pytest.approx(expected.curve["observed"].tolist())
    assert mine["ratio"].iloc[0] == pytest.approx(expected.ratio) and mine["ence"].iloc[0] == pytest.approx(
        expected.ence
    )
    assert mine["mean_predicted"].iloc[0] == pytest.approx(float(predicted[:, 2].mean()))
    at_bound = (predicted[:, 2] < 0.1 + 1e-6) | (predicted[:, 2] > 10 - 1e-5)
    assert mine["bounded"].iloc[0] == pytest.approx(float(at_bound.double().mean()))


def test_training_is_what_runs_logged(study):
    table = doubt.training(study, "MAST")
    expected = over_training(study.runs["MAST", 1])
    pd.testing.assert_frame_equal(
        table[table["seed"] == 1][expected.columns].reset_index(drop=True), expected, rtol=1e-9
    )


def test_the_gallery_shows_the_surest_and_the_least_sure(study):
    run = study.runs["MAST", 0]
    table = doubt.gallery(study, "MAST", "color", 40, 3)
    views = doubt.gallery_views(run, "color", 40)
    assert views.shape == (2, 40, 3, 16, 16)
    both = (uncertainties(run, views[0])[:, 2] + uncertainties(run, views[1])[:, 2]).double()
    mine = table[table["seed"] == 0].set_index("kind")
    assert mine.loc["surest", "uncertainty"].tolist() == pytest.approx(np.sort(both)[:3].tolist())
    assert mine.loc["least sure", "uncertainty"].tolist() == pytest.approx(np.sort(both)[::-1][:3].tolist())
    assert both[torch.tensor(mine["image"].tolist())].tolist() == pytest.approx(mine["uncertainty"].tolist())
    assert mine.loc["surest", "place"].tolist() == [0, 1, 2]
    gray = (views.amax(dim=2) - views.amin(dim=2)).amax(dim=(2, 3))
    assert (gray[0] != gray[1]).double().mean() > 0.5, "a pair differs in colour"
    with pytest.raises(InputError, match="augmentation = 'rotate'"):
        doubt.gallery(study, "MAST", "rotate", 40, 3)
