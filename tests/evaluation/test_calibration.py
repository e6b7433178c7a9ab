"""Links to error and calibration of known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from mastlib.errors import InputError
from mastlib.evaluation.calibration import against_error, calibration


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
