"""Uncertainty over seeds: intervals, paired differences, tidy summaries, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from mastlib.errors import InputError, refuse


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
    if frame.duplicated([method, task]).any():
        raise InputError(f"a ({method}, {task}) appears twice; summarise over seeds first")
    wide = frame.pivot(index=task, columns=method, values=value).dropna()
    if wide.empty:
        raise InputError(f"no {task} has a value for every {method}; ranks need at least one")
    return wide.rank(axis=1, ascending=False).mean().sort_values(kind="stable").rename("mean_rank")
