"""Uncertainty read from a run as its loss has it; doses of known effect; links to error and calibration of known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from mastlib.augment import GaussianBlur, HorizontalFlip, Invert, Pipeline, Posterize, Rotate, TranslateX, get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.subspaces import trained_method
from mastlib.evaluation.uncertainty import (
    PER_IMAGE,
    PREDICTED,
    Dose,
    against_error,
    by_count,
    by_strength,
    calibration,
    curve,
    knn_errors,
    mismatches,
    of_run,
    over_training,
    rises,
    uncertainties,
)
from mastlib.methods.mast import TAU_RANGE
from mastlib.monitors import knn_accuracy
from mastlib.runs import Run
from mastlib.spec import RunSpec
from mastlib.training import fit

SIDE = 16
TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 10), "image_size": SIDE, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 0.1, "augmentations": "standard5",
    "precision": "fp32", "memory_format": "contiguous", "compile": "off",
}  # fmt: skip
MAST = {"awareness": "mast", "pairing": "isolate_one"}


def images(n: int = 24) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n))


def trained(**changes: object) -> Run:
    return fit(RunSpec(**{**TINY, **MAST, **changes}), progress=False)


class Recorder(Pipeline):
    """Keeps the parameters that it was asked to apply."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline.ops)
        self.asked: list[dict[str, Tensor]] = []

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        self.asked.append(params)
        return super().apply(images, params)


# --- of a run ---


@pytest.mark.parametrize("form", ["reweight", "softmax", "gaussian_dims", "moments"])
def test_uncertainties_are_those_of_the_head(form: str) -> None:
    run = trained(uncertainty=form)
    method, views = trained_method(run), images()
    with torch.no_grad():
        read = method.aware.log_variance(method.projector(method.features(views), None)[1]).exp()
    if form in ("gaussian_dims", "moments"):
        masks = read_masks(run)
        read = torch.stack([(read * row).sum(dim=1) / row.sum() for row in masks], dim=1)
    found = uncertainties(run, views)
    assert found.shape == (24, 5)
    torch.testing.assert_close(found, read)
    assert (found.std(dim=0) > 1e-4).all()
    torch.testing.assert_close(uncertainties(run, (views * 255).byte()), found, atol=0.05, rtol=0.05)


def test_uncertainty_of_a_masked_representation_is_read_through_each_mask() -> None:
    run = trained(mask_on="representation", uncertainty="gaussian", mask_power=2)
    method, views, masks = trained_method(run), images(), read_masks(run)
    with torch.no_grad():
        features = method.features(views)
        for k in range(5):
            hidden = method.projector.body(features * masks[k] ** 2)
            expected = method.aware.log_variance(hidden)[:, k].exp()
            torch.testing.assert_close(uncertainties(run, views)[:, k], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"uncertainty": "gaussian", "mask_type": "blocks", "subspace_loss": "A"},
        {"uncertainty": "gaussian"},
        {"uncertainty": "gaussian_dims", "mask_type": "ones", "pairing": "isolate_each"},
        {"uncertainty": "gaussian", "mask_on": "representation"},
        {"uncertainty": "gaussian", "lr": 10.0},
    ],
)
def test_predicted_and_observed_are_those_of_the_loss(changes: dict[str, object]) -> None:
    run = trained(**changes)
    predicted, observed = mismatches(run, images(), seed=4)
    assert predicted.shape == observed.shape == (24, 5) and predicted.dtype == torch.float64
    method, pipeline = trained_method(run), get_pipeline("standard5", SIDE)
    method.aware.pairing = "isolate_one"
    masks = method.aware.masks()
    low, high = TAU_RANGE
    assert predicted.min() >= low - 1e-6 and predicted.max() <= high + 1e-6
    if "lr" in changes:  # far enough to reach the bounds
        assert (predicted.min() - low).abs() < 1e-6 or (predicted.max() - high).abs() < 1e-6
    for k, name in enumerate(pipeline.names):
        alone = {other: float(other == name) for other in pipeline.names}
        views = pipeline.views(
            images(), "isolate_one", torch.Generator().manual_seed(4), run.spec.crop_redrawn, weights=alone
        )
        with torch.no_grad():
            parts = method(views, 0)
            spread = method.aware.weights(masks, method.aware.differing(views)).mean(dim=1).double()
        assert float(parts["uncertainty"]) == pytest.approx(float(predicted[:, k].mean()), rel=1e-5)
        if changes["uncertainty"] == "gaussian":
            if "mask_on" in changes:
                spread = torch.ones(24).double()
            likelihood = spread * (observed[:, k] / predicted[:, k] + predicted[:, k].log())
            assert float(parts["invariance"]) == pytest.approx(float(likelihood.mean()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("form", ["none", "task"])
def test_runs_without_an_uncertainty_of_each_image_are_refused(form: str) -> None:
    run = trained(uncertainty=form)
    for ask in (lambda: of_run(run), lambda: uncertainties(run, images()), lambda: mismatches(run, images())):
        with pytest.raises(InputError, match=f"uncertainty = '{form}'"):
            ask()


def test_other_methods_and_uncertainties_that_predict_no_variance_are_refused() -> None:
    with pytest.raises(InputError, match="a MAST run"):
        of_run(fit(RunSpec(**TINY), progress=False))
    assert set(PREDICTED) < set(PER_IMAGE)
    with pytest.raises(InputError, match="uncertainty = 'softmax'"):
        mismatches(trained(uncertainty="softmax"), images())
    with pytest.raises(InputError, match="isolated pairs and an uncertainty"):
        over_training(trained(uncertainty="none"))


def test_a_run_goes_through_end_to_end() -> None:
    run = trained(uncertainty="reweight")
    read, pipeline = of_run(run)
    doses = by_strength(read, pipeline, images(), steps=3) | by_count(read, pipeline, images())
    table, tests = curve(doses), rises(doses, shuffles=50)
    assert list(doses) == [*pipeline.names, "operations"]
    assert len(table) == 5 * (3 * 3 + 2 + 2 + 6)  # crop, color, blur; flip and grayscale; none to five operations
    assert len(tests) == 6 * 5 and tests["spearman"].abs().max() <= 1 and tests["p"].between(1 / 51, 1).all()
    clean = uncertainties(run, images()).double()
    for dose in doses.values():
        torch.testing.assert_close(dose.values[:, 0], clean, atol=1e-6, rtol=1e-6)
    first = doses["crop"].values[:, 1, 2].numpy()
    assert table.loc[5, ["varied", "subspace", "level"]].tolist()[0] == "crop"
    row = table[(table["varied"] == "crop") & (table["subspace"] == "color") & (table["level"] == 0.5)].iloc[0]
    assert row["mean"] == pytest.approx(first.mean()) and row["n"] == 24
    fit_of_variance = calibration(*(columns[:, 0] for columns in mismatches(run, images())), bins=4)
    assert fit_of_variance.n == 24 and fit_of_variance.ratio > 0
    wrong = knn_errors(images().flatten(1), np.arange(24) % 2)
    assert against_error(clean[:, 0], wrong, bins=4).n == 24
    followed = over_training(run)
    assert list(followed.columns) == ["augmentation", "epoch", "loss", "uncertainty"]
    assert list(followed["augmentation"].unique()) == list(pipeline.names)
    assert len(followed) == len(pipeline.names) * run.spec.epochs and (followed[["loss", "uncertainty"]] > 0).all(
        axis=None
    )
    log = run.metrics().set_index("epoch")
    crop = followed[followed["augmentation"] == "crop"].set_index("epoch")
    assert crop["loss"].equals(log["loss_crop"].rename("loss"))


# --- doses ---


def test_strength_goes_from_the_identity_to_the_farther_end_of_one_augmentation() -> None:
    pipeline = Recorder(get_pipeline("extended15", SIDE))
    by_strength(lambda views: torch.zeros(len(views), 15), pipeline, images(40), steps=5)
    asked = iter(pipeline.asked)
    for op in pipeline.ops:
        switch = [r.whole and r.high == 1 for r in op.ranges()] == [True]
        for t in (0, 1) if switch else (0, 0.25, 0.5, 0.75, 1):
            params = next(asked)
            for other in pipeline.ops:
                if other is not op:
                    assert torch.equal(params[other.name], other.identity.expand(40, -1))
            for i, r in enumerate(op.ranges()):
                identity, column = float(op.identity[i]), params[op.name][:, i]
                reach = 0 if r.name == "order" else max(abs(r.low - identity), abs(r.high - identity))
                torch.testing.assert_close((column - identity).abs(), torch.full((40,), float(t * reach)))
                if t == 1 and reach:
                    assert ((column == r.low) | (column == r.high)).all()
                    both = math.isclose(identity - r.low, r.high - identity)
                    assert len(column.unique()) == (2 if both else 1)
            if op.name == "crop":  # boxes lie within the frame
                centre, sides = params["crop"][:, :2], params["crop"][:, 2:]
                assert (centre - sides / 2).min() > -1e-6 and (centre + sides / 2).max() < 1 + 1e-6
    assert next(asked, None) is None
    with pytest.raises(InputError, match="steps"):
        by_strength(lambda views: torch.zeros(len(views), 15), pipeline, images(2), steps=1)


def test_integers_are_reached_in_as_many_steps_as_there_are() -> None:
    pipeline = Recorder(Pipeline([Posterize(), Rotate()]))
    for steps, bits in ((4, [8, 7, 5, 4]), (9, [8, 7, 6, 5, 4])):
        pipeline.asked = []
        doses = by_strength(lambda views: torch.zeros(len(views), 2), pipeline, images(3), steps)
        asked = [params["posterize"].unique().tolist() for params in pipeline.asked]
        assert asked[: len(bits)] == [[bit] for bit in bits]
        assert len(doses["posterize"].levels) == len(bits) and len(doses["rotate"].levels) == steps


def test_counts_add_one_operation_at_a_time() -> None:
    pipeline = Recorder(get_pipeline("standard5", SIDE))
    dose = by_count(lambda views: torch.zeros(len(views), 5), pipeline, images(60), seed=2)["operations"]
    assert dose.levels.tolist() == [0, 1, 2, 3, 4, 5] and dose.values.shape == (60, 6, 5)
    on = torch.stack([torch.stack([op.active(p[op.name]) for op in pipeline.ops], dim=1) for p in pipeline.asked])
    assert (on.sum(dim=2) == torch.arange(6)[:, None]).all()
    assert (on[1:] | ~on[:-1]).all()  # what was on stays on
    assert (on[1].float().mean(dim=0) - 0.2).abs().max() < 0.15  # any of them may be the first
    again = Recorder(get_pipeline("standard5", SIDE))
    by_count(lambda views: torch.zeros(len(views), 5), again, images(60), seed=2)
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(pipeline.asked, again.asked, strict=True) for k in pipeline.names
    )


def test_what_rises_is_seen_to_and_noise_and_constants_are_not() -> None:
    generator = torch.Generator().manual_seed(0)

    def read(views: Tensor) -> Tensor:
        """The share that is black, which grows as the picture moves out; that which is not; nothing; noise."""
        black = (views < 1e-3).all(dim=1).float().mean(dim=(1, 2))
        return torch.stack(
            [black, 1 - black, torch.ones(len(views)), torch.rand(len(views), generator=generator)], dim=1
        )

    pipeline = Pipeline([HorizontalFlip(), TranslateX(), GaussianBlur(), Invert()])
    doses = {
        name: Dose(("black", "lit", "one", "noise"), dose.levels, dose.values)
        for name, dose in by_strength(read, pipeline, images(50), steps=4).items()
    }
    table = rises(doses, shuffles=199).set_index(["varied", "subspace"])
    for subspace, expected in (("black", [1, 1, 1 / 200]), ("lit", [-1, -1, 1 / 200]), ("one", [0, 0, 1])):
        found = table.loc[("translate_x", subspace), ["spearman", "within", "p"]]
        assert found.tolist() == pytest.approx(expected)
    for varied in pipeline.names:
        assert table.loc[(varied, "noise"), "p"] > 0.02 and abs(table.loc[(varied, "noise"), "within"]) < 0.3
    assert table.loc[("flip", "black"), "p"] == 1  # a mirrored image is as black


def dose(noise: float, n: int = 80, s: int = 5) -> Dose:
    """Images of unlike uncertainty, which rises with the level but for `noise`."""
    draw = np.random.default_rng(1)
    levels = np.linspace(0, 1, s)
    values = draw.normal(size=(n, 1, 1)) + levels[None, :, None] + noise * draw.normal(size=(n, s, 2))
    return Dose(("a", "b"), torch.from_numpy(levels), torch.from_numpy(values))


def test_rises_agrees_with_scipy() -> None:
    doses = {"x": dose(0.5)}
    table = rises(doses)
    for k, row in table.iterrows():
        values = doses["x"].values[:, :, k].numpy()
        levels = np.tile(doses["x"].levels.numpy(), (len(values), 1))
        assert row["spearman"] == pytest.approx(stats.spearmanr(levels.ravel(), values.ravel()).statistic)
        assert row["within"] == pytest.approx(
            np.mean([stats.spearmanr(x, y).statistic for x, y in zip(levels, values, strict=True)])
        )
        assert row["p"] == 0.001 and row["n"] == 80


def test_shuffled_levels_have_uniform_p() -> None:
    draw = np.random.default_rng(5)
    found = []
    for i in range(100):
        values = draw.permuted(dose(0.1, n=12).values.numpy(), axis=1)
        found.append(rises({"x": Dose(("a", "b"), torch.linspace(0, 1, 5), torch.from_numpy(values))}, 99, seed=i))
    p = pd.concat(found).query("subspace == 'a'")["p"]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    with pytest.raises(InputError, match="shuffles"):
        rises({"x": dose(0.5)}, shuffles=0)


# --- errors ---


def test_knn_errors_are_those_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(3)
    features, labels = torch.randn(90, 4, generator=draw) + 0.5, np.arange(90) % 3
    features[:, 0] += torch.from_numpy(labels)
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    every = np.arange(90)
    expected = [
        KNeighborsClassifier(1).fit(unit[every != i], labels[every != i]).predict(unit[i : i + 1])[0] != labels[i]
        for i in range(90)
    ]
    assert knn_errors(features, labels).tolist() == expected and 0 < np.mean(expected) < 1
    split = np.where(every < 60, "train", "val")
    by_train = knn_errors(features, labels, split == "train")
    classes = torch.from_numpy(labels)
    share = knn_accuracy(features[:60], classes[:60], features[60:], classes[60:])
    assert 1 - by_train[60:].mean() == pytest.approx(share)
    assert by_train[:60].tolist() == knn_errors(features[:60], labels[:60]).tolist()
    some = pd.Series(labels.astype(object)).where(every % 9 > 0, None)
    found, known = knn_errors(features, some), every % 9 > 0
    assert np.isnan(found[~known]).all()
    assert found[known].tolist() == knn_errors(features[torch.from_numpy(known)], labels[known]).tolist()
    with pytest.raises(InputError, match="two or more in memory"):
        knn_errors(features, labels, every < 1)
    with pytest.raises(InputError, match="90"):
        knn_errors(features, labels[:80])


def test_uncertainty_that_is_the_probability_of_an_error_is_linked_to_it() -> None:
    draw = np.random.default_rng(0)
    u = draw.random(3000)
    wrong = (draw.random(3000) < u).astype(float)
    link = against_error(torch.from_numpy(u), torch.from_numpy(wrong), bins=6)
    expected = stats.spearmanr(u, wrong)
    assert (link.spearman, link.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert link.auroc == pytest.approx(roc_auc_score(wrong, u)) and link.auroc == pytest.approx(5 / 6, abs=0.02)
    table = link.curve
    assert table["n"].tolist() == [500] * 6 and table["error"].is_monotonic_increasing
    np.testing.assert_allclose(table["uncertainty"], (np.arange(6) + 0.5) / 6, atol=0.02)
    tables = []
    for _ in range(30):
        wrong_again = (draw.random(3000) < u).astype(float)
        tables.append(against_error(u, wrong_again, bins=6).curve)
    every = pd.concat(tables)
    assert every["uncertainty"].between(every["low"], every["high"]).mean() == pytest.approx(0.95, abs=0.05)
    z, e, n = stats.norm.ppf(0.975), table["error"], 500
    middle, half = (e + z * z / (2 * n)) / (1 + z * z / n), z * np.sqrt(e * (1 - e) / n + (z / (2 * n)) ** 2)
    np.testing.assert_allclose(table["low"], middle - half / (1 + z * z / n))
    np.testing.assert_allclose(table["high"], middle + half / (1 + z * z / n))
    shuffled = against_error(draw.permutation(u), wrong)
    assert abs(shuffled.spearman) < 0.06 and shuffled.p > 0.01 and shuffled.auroc == pytest.approx(0.5, abs=0.04)


def test_errors_of_any_size_missing_ones_and_ties() -> None:
    u = np.arange(40.0)
    error = 3 * u**2 + 2
    link = against_error(u, error, bins=4)
    assert link.spearman == pytest.approx(1) and math.isnan(link.auroc)
    low, high = stats.t.interval(0.95, 9, error[:10].mean(), stats.sem(error[:10]))
    assert link.curve.loc[0, ["low", "high"]].tolist() == pytest.approx([low, high])
    missing = np.where(u < 20, np.nan, error)
    assert against_error(u, missing, bins=2).curve["n"].tolist() == [10, 10]
    ties = against_error(np.repeat([0.0, 1.0], [30, 10]), error, bins=10)
    assert ties.curve["n"].tolist() == [30, 10]
    flat = against_error(np.ones(40), (u > 3).astype(float))
    assert math.isnan(flat.spearman) and math.isnan(flat.auroc) and len(flat.curve) == 1
    for bad in ((u, error[:9]), (u[:3], error[:3])):
        with pytest.raises(InputError):
            against_error(*bad)


def test_calibration_knows_a_fit_a_scale_and_no_relation() -> None:
    draw = np.random.default_rng(2)
    tau = np.exp(draw.normal(size=20_000))
    squared = tau * draw.normal(size=(8, 20_000)) ** 2  # a mean over dimensions: Gaussian differences of that variance
    observed = squared.mean(axis=0)
    found = calibration(tau, observed)
    assert found.slope == pytest.approx(1, abs=0.03) and found.ratio == pytest.approx(1, abs=0.03)
    assert found.ence < 0.02 and found.n == 20_000 and len(found.curve) == 10
    assert (found.curve["predicted"].between(found.curve["low"], found.curve["high"])).sum() >= 8
    reference = LinearRegression().fit(tau[:, None], observed, sample_weight=tau**-2)
    assert found.slope == pytest.approx(reference.coef_[0])
    twice = calibration(tau / 2, observed)
    assert (twice.slope, twice.ratio) == pytest.approx((2, 2), abs=0.06)
    assert twice.ence == pytest.approx(math.sqrt(2) - 1, abs=0.02)
    none = calibration(tau, draw.permutation(observed))
    assert abs(none.slope) < 0.1 and none.ence > 0.3
    constant = calibration(np.full(100, 0.5), observed[:100])
    assert math.isnan(constant.slope) and len(constant.curve) == 1
    with pytest.raises(InputError, match="above 0"):
        calibration(np.zeros(100), observed[:100])
