from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mastlib.errors import InputError
from mastlib.stats import (
    across_tasks,
    critical_difference,
    crossed,
    interaction,
    interval,
    jackknife,
    mean_rank,
    paired_bootstrap,
    paired_difference,
    spell,
    summarise,
    two_groups,
)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_is_scipys(level: float) -> None:
    x = np.random.default_rng(0).normal(3, 2, size=7)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(level)
    ours = interval(x, level)
    assert ours == pytest.approx((x.mean(), theirs.low, theirs.high, 7))


def test_interval_covers_as_often_as_it_says() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3))
    found = [interval(row) for row in x]
    assert np.mean([i.low < 0 < i.high for i in found]) == pytest.approx(0.95, abs=0.02)


def test_one_seed_has_no_bounds_and_equal_seeds_no_width() -> None:
    mean, low, high, n = interval([0.5])
    assert (mean, n) == (0.5, 1)
    assert np.isnan([low, high]).all()
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0, np.nan], 0.95), ([1.0, 2.0], 1.0), ([1.0, 2.0], 95)])
def test_interval_refuses(values: list[float], level: float) -> None:
    with pytest.raises(InputError):
        interval(values, level)


def test_paired_difference_is_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=5)
    a, b = base + 0.3 + 0.01 * rng.normal(size=5), base
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    ours = paired_difference(list(a), list(b))
    assert ours == pytest.approx(((a - b).mean(), theirs.low, theirs.high, 5))
    assert ours.low > 0  # pairing sees what the spread over seeds hides
    assert interval(a).low < interval(b).high


def test_paired_difference_matches_seeds_not_positions() -> None:
    result = paired_difference({0: 1.0, 1: 5.0, 7: 9.0}, pd.Series([4.5, 0.5, 100.0], index=[1, 0, 3]))
    assert result == (0.5, 0.5, 0.5, 2)
    with pytest.raises(InputError, match="no seed in common"):
        paired_difference({0: 1.0}, {1: 1.0})
    with pytest.raises(InputError, match="twice"):
        paired_difference(pd.Series([1.0, 2.0], index=[0, 0]), {0: 1.0})


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [(m, t, s, v + s) for m, t, v in [("a", "x", 1), ("a", "y", 2), ("b", "x", 3)] for s in range(3)],
        columns=["method", "task", "seed", "value"],
    )


def test_summarise_gives_each_groups_interval() -> None:
    table = summarise(rows(), by=["method", "task"])
    assert list(table.columns) == ["method", "task", "mean", "low", "high", "n"]
    assert len(table) == 3
    theirs = stats.ttest_1samp([3, 4, 5], 0).confidence_interval(0.95)
    assert tuple(table.iloc[2][["mean", "low", "high", "n"]]) == pytest.approx((4, theirs.low, theirs.high, 3))


def test_summarise_refuses_a_seed_counted_twice_and_unknown_columns() -> None:
    with pytest.raises(InputError, match="a seed appears twice for task x"):
        summarise(rows(), by=["task"])
    with pytest.raises(InputError, match="metric"):
        summarise(rows(), by=["method", "metric"])


def test_mean_rank_is_scipys_ranking_averaged() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6)).round(1)  # methods x tasks, with ties
    frame = pd.DataFrame(
        [(f"m{i}", f"t{j}", values[i, j]) for i in range(4) for j in range(6)], columns=["method", "task", "mean"]
    )
    expected = stats.rankdata(-values, axis=0).mean(1)
    ranks = mean_rank(frame)
    assert [ranks[f"m{i}"] for i in range(4)] == pytest.approx(expected)
    assert ranks.is_monotonic_increasing


def test_mean_rank_counts_complete_tasks_only() -> None:
    frame = summarise(rows(), by=["method", "task"])
    assert mean_rank(frame).to_dict() == {"b": 1.0, "a": 2.0}  # y has no value for b
    with pytest.raises(InputError, match="every method"):
        mean_rank(frame[frame["task"].eq("y") | frame["method"].eq("b")])
    with pytest.raises(InputError, match="twice"):
        mean_rank(rows(), value="value")


def test_paired_bootstrap_covers_the_mean_difference_and_no_more_than_it_must() -> None:
    draw = np.random.default_rng(2)
    base = draw.normal(size=(200, 60)) * 5
    skewed = base + draw.exponential(size=(200, 60))  # of mean 1
    found = [paired_bootstrap(a, b, resamples=999, seed=i) for i, (a, b) in enumerate(zip(skewed, base, strict=True))]
    assert np.mean([one.low < 1 < one.high for one in found]) == pytest.approx(0.94, abs=0.04)
    student = [paired_difference(list(a), list(b)) for a, b in zip(skewed, base, strict=True)]
    widths = [np.mean([one.high - one.low for one in many]) for many in (found, student)]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)
    assert [one.mean for one in found] == pytest.approx([one.mean for one in student]) and found[0].n == 60
    assert paired_bootstrap(skewed[0], base[0], seed=1) == paired_bootstrap(skewed[0], base[0], seed=1)
    with pytest.raises(InputError, match="a has 2 values and b has 3"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="two or more"):
        paired_bootstrap([1], [2])


def scores(values: np.ndarray) -> pd.DataFrame:
    """A row for each method (rows of `values`) and task (columns)."""
    named = [(f"m{i}", f"t{j}", v) for i, row in enumerate(values) for j, v in enumerate(row)]
    return pd.DataFrame(named, columns=["method", "task", "mean"])


def test_across_tasks_is_scipys_signed_rank_test() -> None:
    values = np.random.default_rng(3).normal(size=(3, 12))
    values[1] += 1.5
    found = across_tasks(scores(values), "m1", "m0")
    assert found.p == pytest.approx(stats.wilcoxon(values[1], values[0]).pvalue) and found.p < 0.05
    assert (found.better, found.n) == (int((values[1] > values[0]).sum()), 12)
    assert across_tasks(scores(values[[0, 0]]), "m0", "m1") == (1.0, 0, 12)
    assert across_tasks(scores(np.array([[5.0] * 5, [1.0, 2, 3, 4, 0]])), "m0", "m1").p > 0.05, "too few tasks to say"
    missing = scores(values).drop(index=0)
    assert across_tasks(missing, "m0", "m2").n == 11
    with pytest.raises(InputError, match="method = 'm9' cannot be used; accepted: m0"):
        across_tasks(scores(values), "m0", "m9")


def test_critical_difference_is_that_of_the_tables() -> None:
    # Demšar 2006, table 5(a): q at .05, and the example of section 3.3 (4 methods, 14 data sets).
    table = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for methods, q in table.items():
        assert critical_difference(methods, 1) / np.sqrt(methods * (methods + 1) / 6) == pytest.approx(q, abs=1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    for arguments in ((1, 5), (3, 0), (3, 5, 1.0)):
        with pytest.raises(InputError):
            critical_difference(*arguments)


def test_the_jackknife_of_a_mean_is_the_standard_error() -> None:
    x = np.random.default_rng(0).normal(3, 2, size=60)
    found = jackknife(lambda kept: x[kept].mean(), np.arange(60), folds=60)
    assert found == pytest.approx(interval(x))


def test_the_jackknife_covers_the_truth_where_pictures_come_in_groups() -> None:
    """Twenty values of each of 50 groups that share a large part: taken one by one, the interval would be four times too narrow."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(50), 20)
    inside = 0
    for _ in range(200):
        x = rng.normal(size=50)[groups] + 0.3 * rng.normal(size=1000)
        found = jackknife(lambda kept, x=x: x[kept].mean(), groups)
        inside += found.low <= 0 <= found.high
    assert 180 <= inside <= 199


def test_the_jackknife_without_two_groups_has_no_bounds() -> None:
    found = jackknife(lambda kept: float(kept.sum()), ["a"] * 4)
    assert found.mean == 4 and found.n == 4 and np.isnan(found.low) and np.isnan(found.high)
    with pytest.raises(InputError, match="groups"):
        jackknife(lambda kept: 0.0, [])


@pytest.mark.parametrize(("seeds", "tasks"), [(3, 25), (5, 8)])
@pytest.mark.parametrize("deviations", [(1, 0, 1), (0, 1, 1), (1, 1, 1), (0.2, 1, 0.5), (1, 0.2, 0.5)])
def test_crossed_covers_the_mean_of_all_seeds_and_tasks(seeds: int, tasks: int, deviations: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    seed, task, rest = deviations
    found = [
        crossed(
            seed * rng.normal(size=(seeds, 1))
            + task * rng.normal(size=(1, tasks))
            + rest * rng.normal(size=(seeds, tasks))
        )
        for _ in range(1000)
    ]
    assert np.mean([i.low < 0 < i.high for i in found]) == pytest.approx(0.95, abs=0.03)
    assert found[0].n == seeds * tasks


def test_crossed_is_the_interval_over_what_varies() -> None:
    rng = np.random.default_rng(4)
    rows, columns = rng.normal(size=(5, 1)), rng.normal(size=(1, 7))
    for x, one in ((rows + np.zeros((5, 7)), rows), (columns + np.zeros((5, 7)), columns)):
        assert crossed(x)[:3] == pytest.approx(interval(one.ravel())[:3])
        assert crossed(pd.DataFrame(one)) == pytest.approx(interval(one.ravel()))
    assert crossed(np.full((3, 4), 0.5)) == (0.5, 0.5, 0.5, 12)
    with pytest.raises(InputError):
        crossed(np.full((3, 4), np.nan))


def test_two_groups_is_scipys_welch() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(1, 1, size=6), rng.normal(0, 3, size=15)
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert two_groups(a, b) == pytest.approx((a.mean() - b.mean(), theirs.low, theirs.high, 21))
    with pytest.raises(InputError, match="two or more of each"):
        two_groups([1.0], b)


def test_interaction_has_the_f_test_and_covers_its_deviation() -> None:
    rng = np.random.default_rng(6)

    def drawn(deviation: float) -> np.ndarray:
        """Arms, tasks and seeds with effects of their own, and their pairs with one but for arm x task, which has `deviation`."""
        parts = [rng.normal(size=[n if i in axes else 1 for i, n in enumerate((3, 4, 9))])
                 for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2))]  # fmt: skip
        return sum(parts) + deviation * rng.normal(size=(1, 4, 9))

    none = [interaction(drawn(0)) for _ in range(1000)]
    assert np.mean([i.low > 0 for i in none]) == pytest.approx(0.025, abs=0.015)
    some = [interaction(drawn(2)) for _ in range(1000)]
    assert np.mean([i.low < 2 < i.high for i in some]) > 0.93
    assert np.mean([i.mean for i in some]) == pytest.approx(2, abs=0.1) and some[0].n == 108
    with pytest.raises(InputError, match="two or more of each"):
        interaction(drawn(0)[:1])


def test_means_are_spelled_with_their_interval():
    found = interval([1.0, 2.0, 4.0])
    assert spell([1.0, float("nan"), 2.0, 4.0]) == f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
    assert spell([0.0312], 100, "+.1f") == "+3.1"
    assert spell([]) == spell([float("nan")]) == "not measured"
