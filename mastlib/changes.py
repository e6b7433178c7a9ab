"""What one arm has over another: by seed and task, for each task, for groups of tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from mastlib.errors import InputError
from mastlib.stats import Interval, crossed, interval

COLUMNS = ["comparison", *Interval._fields]


class Nothing(InputError):
    """The rows that a comparison needs are not there."""


def change(rows: pd.DataFrame, weights: Mapping[str, float], across: Sequence[str] = ("task",)) -> pd.DataFrame:
    """sum_a weights_a value(a), a row for each seed and a column for each of `across`: {"a": 1, "b": -1} is what a has over b.

    rows: columns arm, seed, value and `across`. Only what every named arm has with every seed counts.
    Raises InputError where an (arm, seed, across) is there twice, and Nothing where nothing is left.
    """
    keys = ["seed", *across]
    mine = rows[rows["arm"].isin(weights)]
    if mine.duplicated(["arm", *keys]).any():
        raise InputError(f"an (arm, {', '.join(keys)}) appears twice; a change takes one value of each")
    wide = mine.pivot(index=keys, columns="arm", values="value").reindex(columns=list(weights)).dropna()
    total = (wide * pd.Series(weights)).sum(axis=1)
    table = total.unstack(list(across)) if across else total.to_frame()
    table = table.dropna(axis=1)
    if table.empty:
        raise Nothing(f"no seed has a value of each of {', '.join(weights)}")
    return table


def over(a: str, b: str) -> dict[str, float]:
    """The weights of what arm `a` has over arm `b`."""
    return {a: 1.0, b: -1.0}


def of_each_task(rows: pd.DataFrame, comparisons: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """A row for each task and comparison, a name -> (a, b): `mean` of a - b, paired by seed, with its interval over n seeds.

    Columns: task, comparison, mean, low, high, n. Raises InputError as `change`.
    """
    tables = {name: change(rows, over(*pair)) for name, pair in comparisons.items()}
    return pd.DataFrame(
        [
            (task, name, *interval(table[task]))
            for task in rows["task"].unique()
            for name, table in tables.items()
            if task in table
        ],
        columns=["task", *COLUMNS],
    )


def of_each_group(
    rows: pd.DataFrame, comparisons: Mapping[str, tuple[str, str]], groups: Mapping[str, Collection[str]]
) -> pd.DataFrame:
    """The same for each of `groups` of tasks, name -> tasks: as of all seeds and all tasks like these (`stats.crossed`).

    Columns: group, comparison, mean, low, high, n. A group of which no task is there has no row.
    """
    return pd.DataFrame(
        [
            (group, name, *crossed(change(mine, over(*pair))))
            for group, tasks in groups.items()
            if len(mine := rows[rows["task"].isin(tasks)])
            for name, pair in comparisons.items()
        ],
        columns=["group", *COLUMNS],
    )
