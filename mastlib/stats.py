"""Uncertainty over seeds: intervals, paired differences, tidy summaries, ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from mastlib.errors import InputError, check_choice, check_int, refuse


class Interval(NamedTuple):
    """A mean with its interval's bounds `low` and `high` (NaN where n is 1), from n values."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float] | np.ndarray | pd.Series, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds: mean -+ t_(1+level)/2,n-1 * s / sqrt(n), s with n - 1.

    One value has a mean and no bounds.
    Raises InputError for no values, values that are not finite, or a `level` outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    if not 0 < level < 1:
        raise refuse("level", level, "a number between 0 and 1")
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise refuse("values", values, "one or more finite numbers")
    if len(x) == 1:
        return Interval(float(x[0]), float("nan"), float("nan"), 1)
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def spell(values: Sequence[float] | np.ndarray | pd.Series, scale: float = 1.0, format: str = ".2f") -> str:
    """The `interval` of those of `values` that are finite, times `scale`, as text: "0.52 [0.41, 0.63]", or the mean alone of one.

    "not measured" where there is none.
    """
    x = scale * np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return "not measured"
    mean, low, high, n = interval(x)
    return f"{mean:{format}} [{low:{format}}, {high:{format}}]" if n > 1 else f"{mean:{format}}"


def paired_difference(
    a: Mapping[int, float] | Sequence[float] | pd.Series,
    b: Mapping[int, float] | Sequence[float] | pd.Series,
    level: float = 0.95,
) -> Interval:
    """Mean of a - b over the n seeds that both have, with the t interval of the differences.

    `a`, `b`: values by seed (a mapping, or a series indexed by seed; a plain sequence is taken as seeds 0, 1, ...).
    Seeds share initial weights and data order, so pairing removes what they have in common.
    Raises InputError where no seed is shared or a seed appears twice.
    """
    left, right = pd.Series(a, dtype=float), pd.Series(b, dtype=float)
    for series in (left, right):
        if not series.index.is_unique:
            raise InputError("a seed appears twice; a paired difference takes one value a seed")
    shared = left.index.intersection(right.index)
    if not len(shared):
        raise InputError(f"no seed in common: {sorted(left.index)} and {sorted(right.index)}")
    return interval(left[shared] - right[shared], level)


def crossed(values: np.ndarray | pd.DataFrame, level: float = 0.95) -> Interval:
    """Mean of `values` `(S, T)`, a row for each seed and a column for each task, as one of all seeds and all tasks like these.

    Both are drawn: another seed and another task would have given another mean. With mean squares of rows, of columns and of what
    is left, its variance is v / (S T), v = MS_S + MS_T - MS_R, at least the larger of the first two. Bounds: mean -+ t sqrt(v /
    (S T)), t of Satterthwaite's v^2 / (MS_S^2 / (S - 1) + MS_T^2 / (T - 1) + MS_R^2 / (S - 1)(T - 1)) degrees of freedom. Of one
    seed it is the `interval` over tasks, of one task that over seeds. n is S T.
    Raises InputError for no values, values that are not finite, or a bad `level`.
    Source: Clark 1973, the language-as-fixed-effect fallacy; Satterthwaite 1946.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2:
        return interval(x.ravel(), level)
    mean, _, _, n = interval(x.ravel(), level)
    (s, t), rows, columns = x.shape, x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    squares = np.array(
        [t * ((rows - mean) ** 2).sum(), s * ((columns - mean) ** 2).sum(), ((x - rows - columns + mean) ** 2).sum()]
    )
    free = np.array([s - 1, t - 1, (s - 1) * (t - 1)])
    ms = squares / free
    v = ms[0] + ms[1] - ms[2]
    df = free[ms[:2].argmax()] if v <= ms[:2].max() else v**2 / (ms**2 / free).sum()
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(max(v, ms[:2].max()) / n)
    return Interval(mean, float(mean - half), float(mean + half), n)


def two_groups(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, level: float = 0.95
) -> Interval:
    """Mean of `first` less mean of `second`, which have nothing to do with one another, with Welch's t interval; n of both.

    Raises InputError for groups of fewer than two, values that are not finite, or a bad `level`. Source: Welch 1947.
    """
    a, b = interval(first, level), interval(second, level)
    if min(a.n, b.n) < 2:
        raise refuse("groups", f"{a.n} and {b.n} values", "two or more of each")
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(level)
    return Interval(a.mean - b.mean, float(found.low), float(found.high), a.n + b.n)


def interaction(values: np.ndarray, level: float = 0.95) -> Interval:
    """How unlike the effect of arms is from task to task: the standard deviation of arm x task, in the unit of the values.

    values `(S, A, T)` of S seeds, A arms and T tasks. With the mean squares of arm x task and of seed x arm x task it is
    sqrt((MS_AT - MS_SAT) / S), 0 where that is negative. Bounds have MS_AT over the quantiles of F's distribution there, with
    (A - 1)(T - 1) and (S - 1)(A - 1)(T - 1) degrees of freedom: the lower one is above 0 where arms and tasks interact, and the two
    hold the deviation somewhat more often than `level`. n is S A T.
    Raises InputError for fewer than two of anything and values that are not finite. Source: Scheffé 1959, chapter 7.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 3 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise refuse("values", x.shape, "finite numbers (S, A, T), two or more of each")
    if not 0 < level < 1:
        raise refuse("level", level, "a number between 0 and 1")

    def without(y: np.ndarray, *axes: int) -> np.ndarray:
        for axis in axes:
            y = y - y.mean(axis=axis, keepdims=True)
        return y

    s, a, t = x.shape
    free = (a - 1) * (t - 1), (s - 1) * (a - 1) * (t - 1)
    of_both, of_all = (
        s * (without(x.mean(axis=0), 0, 1) ** 2).sum() / free[0],
        (without(x, 0, 1, 2) ** 2).sum() / free[1],
    )
    quantiles = 1.0, stats.f.ppf((1 + level) / 2, *free), stats.f.ppf((1 - level) / 2, *free)
    middle, low, high = (float(np.sqrt(max(of_both / q - of_all, 0.0) / s)) for q in quantiles)
    return Interval(middle, low, high, x.size)


def paired_bootstrap(
    a: Sequence[float] | np.ndarray | pd.Series,
    b: Sequence[float] | np.ndarray | pd.Series,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over n things that both were measured on (images, episodes), with the bootstrap's percentile interval.

    Pairs are drawn with replacement, `resamples` times. For many values of which a few are large, where Student's t is no good
    description; of a handful of seeds use `paired_difference`.
    Raises InputError where `a` and `b` differ in length, hold fewer than two values or some that are not finite, and for a bad
    `level`.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if left.shape != right.shape:
        raise InputError(f"a has {left.size} values and b has {right.size}; a paired bootstrap needs as many of both")
    mean, _, _, n = interval(left - right, level)
    if n < 2:
        raise refuse("a", a, "two or more values")
    check_int("resamples", resamples, 1)
    draw = np.random.default_rng(seed)
    found = stats.bootstrap(
        (left - right,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=draw,
        batch=256,
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), n)


def jackknife(
    score: Callable[[np.ndarray], float],
    groups: Sequence[object] | np.ndarray | pd.Series,
    folds: int = 20,
    level: float = 0.95,
) -> Interval:
    """`score` of all rows, with the delete-a-group jackknife's interval; n is the number of rows.

    score: rows that are kept `(M,)` bool -> a number. groups `(M,)`: rows of one group (pictures of one concept) are not
    independent, so they go together; groups are dealt at random, the same each time, into G = `folds` parts, or as many as there
    are. With t_g the score without part g: s^2 = (G - 1) / G sum_g (t_g - mean t)^2, bounds t -+ t_(1+level)/2,G-1 s; none where
    there is one group. For any statistic that is smooth in the rows, such as a mean of recalls, an R^2, or an average precision.
    Raises InputError for no rows or a bad `level`. Source: Shao and Tu 1995, section 2.3; Kott 2001.
    """
    if not 0 < level < 1:
        raise refuse("level", level, "a number between 0 and 1")
    check_int("folds", folds, 2)
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    if not len(codes):
        raise refuse("groups", list(codes), "one or more rows")
    everything = score(np.ones(len(codes), dtype=bool))
    parts = np.empty(len(names), dtype=int)
    parts[np.random.default_rng(0).permutation(len(names))] = np.arange(len(names)) % folds
    without = np.array([score(parts[codes] != part) for part in np.unique(parts)]) if len(names) > 1 else np.empty(0)
    count = len(without)
    if count < 2:
        return Interval(everything, float("nan"), float("nan"), len(codes))
    half = stats.t.ppf((1 + level) / 2, count - 1) * np.sqrt(
        (count - 1) / count * ((without - without.mean()) ** 2).sum()
    )
    return Interval(everything, float(everything - half), float(everything + half), len(codes))


def summarise(rows: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """A row per group of `by` with mean, low, high, n (see `interval`) of column `value` over its rows, one per seed.

    Raises InputError for an unknown column, and where a group holds a seed twice: that would count one run as two.
    """
    for name in (*by, "value"):
        if name not in rows:
            raise refuse("by", name, f"one of the columns {', '.join(map(str, rows.columns))}")
    found = []
    for key, group in rows.groupby(list(by), sort=False, dropna=False):
        if "seed" in group and group["seed"].duplicated().any():
            where = ", ".join(f"{name} {value}" for name, value in zip(by, key, strict=True))
            raise InputError(f"a seed appears twice for {where}; add the column that tells the rows apart to `by`")
        found.append((*key, *interval(group["value"], level)))
    return pd.DataFrame(found, columns=[*by, *Interval._fields])


def mean_rank(frame: pd.DataFrame, method: str = "method", task: str = "task", value: str = "mean") -> pd.Series:
    """The rank of each method within a task, averaged over tasks; best first.

    Rank 1 is the highest value; equals share the mean of their ranks. `frame` has a row per (method, task). Only tasks
    that every method has count, so that a missing one does no favour.
    Raises InputError for a repeated (method, task), or where no task is complete.
    """
    wide = _by_task(frame, method, task, value)
    return wide.rank(axis=1, ascending=False).mean().sort_values(kind="stable").rename("mean_rank")


class Comparison(NamedTuple):
    """`p` of a test that there is no difference, over n tasks; `better`: on how many of them the first is above the second."""

    p: float
    better: int
    n: int


def across_tasks(
    frame: pd.DataFrame, first: str, second: str, method: str = "method", task: str = "task", value: str = "mean"
) -> Comparison:
    """Wilcoxon's signed-rank test of two methods over the tasks that both have: is one usually better, whatever the unit?

    Two-sided, exact where there are no ties. `frame` as for `mean_rank`. With fewer than six tasks no p can be below .05.
    Raises InputError for an unknown method or a repeated (method, task), and where no task is shared.
    Source: Demšar 2006, section 3.1.3.
    """
    wide = _by_task(frame[frame[method].isin([first, second])], method, task, value)
    for name in (first, second):
        check_choice(method, name, list(wide.columns))
    difference = wide[first] - wide[second]
    if not difference.any():
        return Comparison(1.0, 0, len(difference))
    return Comparison(float(stats.wilcoxon(difference).pvalue), int((difference > 0).sum()), len(difference))


def critical_difference(methods: int, tasks: int, level: float = 0.95) -> float:
    """How far two of k mean ranks over N tasks must lie apart to differ: q sqrt(k (k + 1) / (6 N)), Nemenyi's test.

    q: the studentised range's quantile for k methods and infinitely many degrees of freedom, over sqrt(2).
    Raises InputError for fewer than two methods, no task, or a bad `level`. Source: Demšar 2006, section 3.2.2.
    """
    check_int("methods", methods, 2)
    check_int("tasks", tasks, 1)
    if not 0 < level < 1:
        raise refuse("level", level, "a number between 0 and 1")
    q = stats.studentized_range.ppf(level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def _by_task(frame: pd.DataFrame, method: str, task: str, value: str) -> pd.DataFrame:
    """A row for each task that every method has, a column for each method; InputError where there is none, or one appears twice."""
    if frame.duplicated([method, task]).any():
        raise InputError(f"a ({method}, {task}) appears twice; summarise over seeds first")
    wide = frame.pivot(index=task, columns=method, values=value).dropna()
    if wide.empty:
        raise InputError(f"no {task} has a value for every {method}; ranks need at least one")
    return wide
