"""Tasks whose dimensions are known, on them and without them; ranks in closed form; Captum's ablation against one by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mastlib.data.pools import Pool
from mastlib.errors import InputError
from mastlib.evaluation.ablation import ablate, importance, masked_features, ranks
from mastlib.evaluation.features import extract
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.probes import logistic_probe
from mastlib.evaluation.protocols import headline_score, without_features
from mastlib.evaluation.regression import ridge_probe
from mastlib.evaluation.rows import load_backbone
from mastlib.evaluation.subspaces import trained_method
from mastlib.evaluation.tasks import Task, get_task, task_classes, task_split, task_targets
from mastlib.monitors import effective_rank
from mastlib.spec import RunSpec
from mastlib.training import fit

SHAPE = Task("shape", "classification", "objects", ("shape",), "accuracy")
RECALL = Task("shape", "classification", "objects", ("shape",), "mean_recall")
PLACE = Task("place", "regression", "objects", ("x", "y"), "r2")
NAMES = ["crop", "flip", "color"]
# crop: the shape's dimensions and one that both share; flip: the place's and the shared one; color: noise
MASKS = torch.tensor([[0.9] * 4 + [0.8] + [0.1] * 7, [0.2] * 4 + [0.7] * 4 + [0.0] * 4, [0.1] * 8 + [1.0] * 4])
GONE = (list(range(5)), list(range(4, 8)), list(range(8, 12)))
GRID = (1e-2, 1.0, 100.0)


def made(n: int = 400) -> tuple[Tensor, Pool]:
    """Features `(n, 12)`: 0 to 3 tell the shape, 4 to 7 the place, and 8 to 11 nothing; off centre and of unlike scales."""
    draw = np.random.default_rng(7)
    shape = draw.choice(["disc", "ring", "star"], size=n, p=[0.6, 0.3, 0.1])
    place = draw.normal(size=(n, 2))
    x = draw.normal(size=(n, 12))
    x[:, :4] += 1.5 * np.eye(4)[[["disc", "ring", "star"].index(s) for s in shape]]
    x[:, 4:8] += 2 * place @ draw.normal(size=(2, 4))
    split = np.array(["train", "train", "val", "test"])[np.arange(n) % 4]
    table = pd.DataFrame({"vendor": "noto", "shape": shape, "x": place[:, 0], "y": place[:, 1], "split": split})
    table.loc[::9, ["shape", "x"]] = None
    features = torch.from_numpy(x * np.logspace(-2, 2, 12) + 30).float()
    return features, Pool("objects", torch.zeros(n, 3, 16, 16, dtype=torch.uint8), table, "made")


def score(task: Task, features: Tensor, pool: Pool) -> float:
    return headline_score(task, features, pool, GRID).found.mean


@pytest.mark.parametrize("task", [SHAPE, RECALL, PLACE], ids=["accuracy", "mean_recall", "r2"])
def test_a_task_lives_in_the_dimensions_that_tell_it(task: Task) -> None:
    features, pool = made()
    table = ablate(task, features, MASKS, NAMES, pool, draws=4, grid=GRID)
    assert list(table.columns) == ["task", "space", "draw", "dimensions", "metric", "value", "n"]
    assert len(table) == 1 + 3 * 2 * (1 + 4) and set(table["metric"]) == {task.metric}
    first = table[table["draw"] == 0].set_index("space")
    expected = {
        "full space": features, "only crop": features[:, :5], "only flip": features[:, 4:8], "only color": features[:, 8:],
        "without crop": features[:, 5:], "without color": features[:, :8],
        "without flip": torch.cat([features[:, :4], features[:, 8:]], dim=1),
    }  # fmt: skip
    for space, chosen in expected.items():
        assert first.loc[space, "value"] == score(task, chosen, pool)
        assert first.loc[space, "dimensions"] == chosen.shape[1]
    mine, other = ("flip", "crop") if task is PLACE else ("crop", "flip")
    assert first.loc[f"only {mine}", "value"] > first.loc[f"without {mine}", "value"] + 0.2
    assert first.loc[f"without {other}", "value"] > first.loc[f"only {other}", "value"]
    drawn = table[table["space"] == f"random as only {mine}"]
    assert drawn["draw"].tolist() == [1, 2, 3, 4] and drawn["value"].nunique() > 1
    assert (drawn["dimensions"] == first.loc[f"only {mine}", "dimensions"]).all()
    assert drawn["value"].mean() < first.loc[f"only {mine}", "value"]
    again = ablate(task, features, MASKS, NAMES, pool, draws=4, grid=GRID)
    pd.testing.assert_frame_equal(again, table)
    alone = ablate(task, features, MASKS, NAMES, pool, draws=4, grid=GRID, without=False)
    kept = table[~table["space"].str.contains("without")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, kept)
    other_seed = ablate(task, features, MASKS, NAMES, pool, draws=4, grid=GRID, seed=1)
    assert not other_seed["value"].equals(table["value"])


def test_probes_undo_a_soft_weight() -> None:
    features, pool = made()
    for task in (SHAPE, PLACE):
        assert score(task, features * (1 - MASKS[0]), pool) == pytest.approx(score(task, features, pool), abs=1e-3)


def test_no_dimension_scores_what_needs_none() -> None:
    features, pool = made()
    masks = torch.stack([torch.zeros(12), torch.ones(12)])
    table = ablate(SHAPE, features, masks, ["none", "all"], pool, draws=1, grid=GRID).set_index("space")
    for space in ("only none", "without all", "random as only none"):
        assert table.loc[space, "value"] == without_features(SHAPE, pool) and table.loc[space, "dimensions"] == 0
    for space in ("only all", "without none", "random as without none"):
        assert table.loc[space, "value"] == table.loc["full space", "value"]
    assert (table["n"] == table["n"].iloc[0]).all()
    kept = importance(SHAPE, features, masks, ["none", "all"], pool, draws=1, grid=GRID)
    assert (kept.loc[kept["subspace"].str.endswith("none"), "drop"] == 0).all()
    gone = kept[(kept["subspace"] == "all") & (kept["metric"] == "accuracy")].iloc[0]
    assert gone["score"] - gone["drop"] == pytest.approx(
        without_features(SHAPE, pool)
    )  # the intercept says the commonest


def test_ranks_are_those_of_the_chosen_dimensions() -> None:
    basis = torch.linalg.qr(torch.randn(200, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    basis = basis - basis.mean(dim=0)
    features = torch.cat([basis[:, :8], basis[:, :1].expand(-1, 4)], dim=1) + 5
    table = ranks(features, MASKS, NAMES).set_index("space")
    assert table["dimensions"].to_dict() == {"full space": 12, "crop": 5, "flip": 4, "color": 4}
    assert table.loc["crop", "rank"] == pytest.approx(5, abs=0.05)
    assert table.loc["flip", "rank"] == pytest.approx(4, abs=0.05)
    assert table.loc["color", "rank"] == pytest.approx(1, abs=1e-6)
    assert table.loc["full space", "rank"] == pytest.approx(effective_rank(features - features.mean(dim=0)))
    assert np.isnan(ranks(features, torch.zeros(1, 12), ["none"]).set_index("space").loc["none", "rank"])


@pytest.mark.parametrize("task", [SHAPE, RECALL], ids=["accuracy", "mean_recall"])
def test_importance_of_a_classification_is_that_of_an_ablation_by_hand(task: Task) -> None:
    features, pool = made()
    table = importance(task, features, MASKS, NAMES, pool, draws=2, grid=GRID).set_index(["metric", "subspace", "draw"])
    assert len(table) == 2 * 3 * (1 + 2)
    labels, split = task_classes(task, pool), task_split(task, pool)
    known = np.array([label is not None for label in labels])
    both = known & np.isin(split, ["train", "val"])
    probe = logistic_probe(features, labels, split, GRID, task.metric)
    x = features.double().numpy()
    x = (x - x[both].mean(axis=0)) / x[both].std(axis=0)
    test = known & (split == "test")
    truth = labels[test]

    def by_hand(gone: list[int]) -> dict[str, float]:
        ablated = x[test].copy()
        ablated[:, gone] = 0
        logits = np.c_[ablated, np.ones(len(ablated))] @ probe.coefficients.double().numpy().T
        hit = np.array(probe.classes)[logits.argmax(axis=1)] == truth
        recalls = [hit[truth == name].mean() for name in probe.classes]
        true = np.array([probe.classes.index(name) for name in truth])
        rows = np.arange(len(true))
        others = logits.copy()
        others[rows, true] = -np.inf
        margin = (logits[rows, true] - others.max(axis=1)).mean()
        return {"accuracy": hit.mean(), "mean_recall": np.mean(recalls), "margin": margin}

    full = by_hand([])
    assert full[task.metric] == pytest.approx(score(task, features, pool))
    for metric in (task.metric, "margin"):
        for name, gone in zip(NAMES, GONE, strict=True):
            row = table.loc[(metric, name, 0)]
            assert row["score"] == pytest.approx(full[metric])
            assert row["drop"] == pytest.approx(full[metric] - by_hand(gone)[metric], abs=1e-9)
            assert row["n"] == test.sum() and row["dimensions"] == len(gone)
        drops = table.loc[metric]["drop"]
        assert drops["crop", 0] > 0.1 > abs(drops["color", 0])
        assert drops["random as crop", 1] != drops["random as crop", 2]


def test_importance_of_a_regression_is_that_of_an_ablation_by_hand() -> None:
    features, pool = made()
    table = importance(PLACE, features, MASKS, NAMES, pool, draws=0).set_index("subspace")
    assert table["metric"].tolist() == ["r2"] * 3
    targets, split = task_targets(PLACE, pool), task_split(PLACE, pool)
    known = ~np.isnan(targets).any(axis=1)
    both, test = known & np.isin(split, ["train", "val"]), known & (split == "test")
    scaler = StandardScaler().fit(features[both].double().numpy())
    x = scaler.transform(features.double().numpy())
    ridge = Ridge(ridge_probe(features, targets, split).alpha).fit(x[both], targets[both])
    total = ((targets[test] - targets[both].mean(axis=0)) ** 2).sum(axis=0)

    def by_hand(gone: list[int]) -> float:
        ablated = x[test].copy()
        ablated[:, gone] = 0
        return float((1 - ((targets[test] - ridge.predict(ablated)) ** 2).sum(axis=0) / total).mean())

    assert by_hand([]) == pytest.approx(score(PLACE, features, pool)) and (table["n"] == test.sum()).all()
    for name, gone in zip(NAMES, GONE, strict=True):
        assert table.loc[name, "score"] == pytest.approx(by_hand([]))
        assert table.loc[name, "drop"] == pytest.approx(by_hand([]) - by_hand(gone), abs=1e-9)
    assert table.loc["flip", "drop"] > 0.5 and abs(table.loc["color", "drop"]) < 0.05


def test_classes_that_were_not_fitted_count_as_errors_and_have_no_margin() -> None:
    features, pool = made()
    odd = pool.table["split"].eq("test") & (pool.table.index % 3 == 0)
    other = Pool("objects", pool.images, pool.table.assign(shape=pool.table["shape"].where(~odd, "cube")), "odd")
    table = importance(SHAPE, features, MASKS, NAMES, other, draws=0, grid=GRID).set_index(["metric", "subspace"])
    assert table.loc[("accuracy", "crop"), "score"] == pytest.approx(score(SHAPE, features, other))
    assert table["drop"].notna().all() and np.isfinite(table["score"]).all()
    without = Pool("objects", pool.images, pool.table.assign(shape=pool.table["shape"].where(~odd, None)), "fewer")
    fitted = importance(SHAPE, features, MASKS, NAMES, without, draws=0, grid=GRID).set_index(["metric", "subspace"])
    assert table.loc["margin", "score"].tolist() == pytest.approx(fitted.loc["margin", "score"].tolist())


def test_what_does_not_fit_is_refused() -> None:
    features, pool = made(40)
    for masks, names in ((MASKS[:, :9], NAMES), (MASKS, NAMES[:2]), (MASKS, ["a", "a", "b"])):
        for ask in (ablate, importance):
            with pytest.raises(InputError, match="masks"):
                ask(SHAPE, features, masks, names, pool)
        with pytest.raises(InputError, match="masks"):
            ranks(features, masks, names)
    with pytest.raises(InputError, match="draws"):
        ablate(SHAPE, features, MASKS, NAMES, pool, draws=-1)
    with pytest.raises(InputError, match="a classification or a regression"):
        importance(get_task("retrieval"), features, MASKS, NAMES, pool)


@pytest.mark.parametrize("mask_on", ["embedding", "representation"])
def test_a_run_goes_through_end_to_end(mask_on: str) -> None:
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 10), image_size=16, images=128, batch_size=32,
        epochs=1, warmup_epochs=0, optimizer="adamw", lr=1e-3, augmentations="standard5", awareness="mast",
        pairing="isolate_one", mask_on=mask_on, mask_type="random", precision="fp32", memory_format="contiguous", compile="off",
    )  # fmt: skip
    run = fit(spec, progress=False)
    pool = made(80)[1]
    images = torch.randint(0, 256, (80, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    features, names = masked_features(run, images), run.info["augmentations"]
    backbone = extract(load_backbone(run), images)
    if mask_on == "representation":
        torch.testing.assert_close(features, backbone)
    else:
        with torch.no_grad():
            torch.testing.assert_close(features, trained_method(run).projector(backbone)[0], atol=1e-5, rtol=1e-5)
    table = ablate(SHAPE, features, read_masks(run), names, pool, draws=1, grid=(1.0,))
    assert len(table) == 1 + 5 * 2 * 2 and table["value"].between(0, 1).all()
    assert len(ranks(features, read_masks(run), names)) == 6
    assert len(importance(PLACE, features, read_masks(run), names, pool, draws=0)) == 5
    with pytest.raises(InputError, match="awareness = 'mast'"):
        masked_features(replace(run, spec=RunSpec()), images)
