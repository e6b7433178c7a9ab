"""The rule that makes verdicts of effects, and how often chance alone gets one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mastlib.changes import Nothing
from mastlib.ledger.verdicts import (
    NOT_REPRODUCED,
    REPRODUCED,
    SCORE,
    UNDECIDED,
    correlation,
    decide,
    effect,
    gain_of_each,
    share_above,
)
from mastlib.stats import Interval


def fixed(mean, low, high, as_good_as=False):
    return effect(f"{mean}", lambda level: Interval(mean, low, high, 3), SCORE, as_good_as=as_good_as)


def one(mean, low, high, as_good_as=False):
    return decide([fixed(mean, low, high, as_good_as)]).verdict


def test_a_claim_of_more_needs_an_interval_above_nothing():
    assert one(0.05, 0.01, 0.09) == one(0.003, 0.001, 0.005) == REPRODUCED
    assert (
        one(-0.05, -0.09, -0.01) == one(0.0, -0.005, 0.005) == NOT_REPRODUCED
    )  # what is less than a point matters to no one
    assert one(0.05, -0.01, 0.11) == one(0.05, np.nan, np.nan) == UNDECIDED


def test_the_interval_that_is_shown_is_the_one_that_decides():
    def of(mean, half):
        return effect(f"{mean}", lambda level: Interval(mean, mean - half * level**9, mean + half * level**9, 3), SCORE)

    refuted = decide([of(-0.05, 0.04), of(0.2, 0.1)])
    assert refuted.verdict == NOT_REPRODUCED and refuted.level == pytest.approx(0.975)
    assert refuted.found == refuted.effect.at(0.975) and refuted.found.high < refuted.effect.least
    for found in (decide([of(0.2, 0.1)]), decide([of(0.02, 0.1), of(0.2, 0.1)])):
        assert found.level == 0.95 and found.found == found.effect.at(0.95)


def test_a_claim_of_no_less_needs_an_interval_above_a_loss_of_a_point():
    assert one(0.0, -0.009, 0.009, True) == one(0.05, 0.01, 0.09, True) == REPRODUCED
    assert one(-0.05, -0.09, -0.01, True) == NOT_REPRODUCED
    assert one(0.0, -0.02, 0.02, True) == UNDECIDED


def test_of_several_effects_all_must_hold_and_the_lowest_decides():
    good, better, open_, bad = (
        fixed(0.05, 0.03, 0.07),
        fixed(0.2, 0.1, 0.3),
        fixed(0, -0.1, 0.1),
        fixed(-0.1, -0.2, -0.05),
    )
    for effects, expected in (
        ([better, good], (REPRODUCED, good)),
        ([good, open_, better], (UNDECIDED, open_)),
        ([open_, bad, fixed(0.1, -0.9, 1.1)], (NOT_REPRODUCED, bad)),
    ):
        found = decide(effects)
        assert (found.verdict, found.effect) == expected and found.found == expected[1].at(0.95)
    with pytest.raises(Nothing):
        decide([])


def seeds_and_tasks(draw, size, noise, tasks=25):
    rows = [(arm, seed, task, size * (arm == "a") + noise * draw.normal())
            for arm in "ab" for seed in range(3) for task in range(tasks)]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "seed", "task", "value"])


@pytest.mark.parametrize(("size", "wrong"), [(0.05, NOT_REPRODUCED), (0.0, REPRODUCED)])
def test_of_many_tasks_that_are_asked_one_by_one_chance_alone_seldom_decides(size, wrong):
    draw = np.random.default_rng(0)
    found = [decide(gain_of_each(seeds_and_tasks(draw, size, 0.05), {"a": 1, "b": -1})).verdict for _ in range(200)]
    assert found.count(wrong) <= 0.05 * 200


def test_shares_and_correlations_have_their_exact_and_fishers_intervals():
    assert share_above("", 10, 10).at(0.95) == pytest.approx((0.5, 0.5 - 1 + 0.025 ** (1 / 10), 0.5, 10))
    x, y = np.random.default_rng(0).normal(size=(2, 28))
    r, half = np.corrcoef(x, -y)[0, 1], 1.959964 / np.sqrt(25)
    expected = r, np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half), 28
    assert correlation("", x, y, -1.0).at(0.95) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(Nothing, match="3 pairs"):
        correlation("", x[:3], y[:3])
