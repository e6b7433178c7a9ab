"""What one arm has over another: the rows that count, SciPy's paired intervals, groups of tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mastlib.changes import Nothing, change, of_each_group, of_each_task
from mastlib.errors import InputError
from mastlib.evaluation.tasks import TASK_GROUPS, list_tasks
from mastlib.stats import crossed


def test_a_change_takes_what_every_arm_has_with_every_seed():
    rows = pd.DataFrame(
        [("a", 0, "x", 1.0), ("a", 0, "y", 2.0), ("a", 1, "x", 3.0), ("a", 1, "y", 4.0), ("a", 1, "z", 9.0),
         ("b", 0, "x", 0.5), ("b", 0, "y", 0.5), ("b", 1, "x", 1.0), ("b", 1, "z", 1.0), ("c", 0, "x", 7.0)],
        columns=["arm", "seed", "task", "value"],
    )  # fmt: skip
    assert change(rows, {"a": 1, "b": -1}).to_dict() == {"x": {0: 0.5, 1: 2.0}}
    assert change(rows, {"a": 2}).to_dict() == {"x": {0: 2.0, 1: 6.0}, "y": {0: 4.0, 1: 8.0}}
    with pytest.raises(Nothing, match="a, d"):
        change(rows, {"a": 1, "d": -1})
    with pytest.raises(InputError, match="twice"):
        change(pd.concat([rows, rows]), {"a": 1, "b": -1})


def scores():
    draw = np.random.default_rng(0)
    rows = [(arm, seed, task, draw.normal()) for arm in "abc" for seed in range(4) for task in ("x", "y", "z")]
    return pd.DataFrame(rows, columns=["arm", "seed", "task", "value"])


def test_each_task_has_its_paired_interval():
    rows = scores()
    table = of_each_task(rows, {"first": ("a", "b"), "second": ("c", "b")})
    assert table[["task", "comparison"]].to_numpy().tolist() == [[t, c] for t in "xyz" for c in ("first", "second")]
    wide = rows[rows["task"] == "y"].pivot(index="seed", columns="arm", values="value")
    theirs = stats.ttest_rel(wide["c"], wide["b"]).confidence_interval(0.95)
    expected = [(wide["c"] - wide["b"]).mean(), theirs.low, theirs.high, 4]
    assert table.loc[3, ["mean", "low", "high", "n"]].tolist() == pytest.approx(expected)
    lacking = rows[(rows["task"] != "x") | (rows["arm"] != "c")]
    assert list(of_each_task(lacking, {"first": ("a", "b"), "second": ("c", "b")})["task"]) == ["x", *"yyzz"]


def test_groups_are_of_all_seeds_and_tasks():
    rows = scores()
    table = of_each_group(rows, {"first": ("a", "b")}, {"two": {"x", "y"}, "one": {"z"}, "none": {"w"}})
    assert list(table["group"]) == ["two", "one"] and list(table["n"]) == [8, 4]
    both = change(rows, {"a": 1, "b": -1})[["x", "y"]]
    assert table.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx(crossed(both)[:3])


def test_groups_of_the_books_tasks_hold_all_of_them():
    assert {task for tasks in TASK_GROUPS.values() for task in tasks} == set(list_tasks())
    assert "category" in TASK_GROUPS["recognition"] and "flag" in set(TASK_GROUPS["colour"]) & set(
        TASK_GROUPS["orientation"]
    )
