"""The search's table by hand, its rule, and the table that the book shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mastlib.catalogue import pair_spec
from mastlib.errors import InputError
from mastlib.search import COLOUR_QUESTIONS, QUESTIONS, change_table, kept, search_table
from mastlib.tiers import tier_spec

ROOT = Path(__file__).parents[1]


def rows() -> pd.DataFrame:
    def row(arm, seed, score, own=np.nan, likeness=np.nan):
        measured = {"knn": score, "ratio": 0.5, "likeness": likeness, "mask_mean": 0.5, "own_of_row": own}
        return {"arm": arm, "seed": seed, **dict.fromkeys(QUESTIONS, score), **measured}

    return pd.DataFrame(
        [
            row("host", 0, 0.2), row("host", 1, 0.4),
            row("control, isolated pairs", 0, 0.6), row("control, isolated pairs", 1, 0.58),
            row("control, mixed pairs", 0, 0.05), row("control, mixed pairs", 1, 0.05),
            row("soft, masks", 0, 0.9, 5, 0.6), row("soft, masks", 1, 0.9, 5, 0.1),
            row("own, masks", 0, 0.5, 4, 0.1), row("own, masks", 1, 0.7, 5, 0.2),
            row("own, not always", 0, 0.1, 3, 0.1), row("own, not always", 1, 0.1, 5, 0.2),
            row("mixed", 0, 0.25, 5, 0.1), row("mixed", 1, 0.25, 5, 0.2),
        ]
    )  # fmt: skip


def test_ranks_and_the_two_conditions_by_hand():
    table = search_table(rows())
    ranks = {
        "soft, masks": 1,
        "own, masks": 2,
        "control, isolated pairs": 3,
        "host": 4,
        "mixed": 5,
        "own, not always": 6,
    }
    assert table["mean rank"].to_dict() == {**ranks, "control, mixed pairs": 7}
    fit = [arm for arm, yes in table["fit"].items() if yes]
    assert fit == ["own, masks", "mixed"]
    assert table.loc["own, masks", ["own, least", "own, most", "own, mean"]].tolist() == [4, 5, 4.5]
    assert table["family"].tolist() == ["host", "control", "control", "soft", "own", "own", "mixed"]
    of_three = ["of three", "host's", "control's"]
    assert table.loc["own, masks", of_three].tolist() == [1, 3, 2]
    assert table.loc["mixed", of_three].tolist() == [2, 1, 3]  # with its own control
    assert kept(table) == "own, masks"
    for rank, best in ((0, "mixed"), (1, "own, masks")):  # of two alike, the one that is better of all
        assert kept(table.assign(**{"of three": table["of three"].where(table.index != "mixed", rank)})) == best


def test_changes_are_paired_by_seed_against_scipy():
    from scipy.stats import ttest_rel

    noise = np.random.default_rng(0)
    table = pd.DataFrame([{"arm": arm, "seed": seed} for seed in range(4) for arm in ("with", "host")])
    for name in QUESTIONS:
        table[name] = noise.normal(size=len(table)).round(3)
    groups = {"colour": COLOUR_QUESTIONS, "other": [q for q in QUESTIONS if q not in COLOUR_QUESTIONS]}
    changes = change_table(table.sample(frac=1, random_state=0), {"with": "host"}, groups)
    for kind, names in groups.items():
        scores = {arm: 100 * part.sort_values("seed")[list(names)].mean(axis=1) for arm, part in table.groupby("arm")}
        test = ttest_rel(scores["with"].to_numpy(), scores["host"].to_numpy())
        low, high = test.confidence_interval()
        found = changes.loc["with", [kind, f"{kind}, low", f"{kind}, high", "n"]].tolist()
        mean = (scores["with"].to_numpy() - scores["host"].to_numpy()).mean()
        np.testing.assert_allclose(np.array(found, dtype=float), [mean, low, high, 4])
    with pytest.raises(InputError, match="with and host"):
        change_table(table[(table["arm"] == "with") | (table["seed"] > 3)], {"with": "host"}, groups)


def test_an_arm_without_all_seeds_is_refused():
    with pytest.raises(InputError, match="own, masks"):
        search_table(rows().drop(index=9))


def test_the_defaults_are_what_the_rule_keeps():
    """The arm that the rule chooses from the kept table is the pair that the book trains."""
    found = importlib.util.spec_from_file_location("search", ROOT / "benchmarks" / "search.py")
    search = importlib.util.module_from_spec(found)
    found.loader.exec_module(search)
    table = search_table(pd.read_csv(ROOT / "outputs" / "reference" / "mast-search.csv"))
    assert set(table.index) == {"random weights", *search.MAST_ARMS}
    assert pair_spec("laptop", "vicreg", "mast") == tier_spec("laptop", **search.MAST_ARMS[kept(table)])
