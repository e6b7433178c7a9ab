"""The ledger's page: a row for each claim with its runs, and a link to a figure that is there."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from mastlib.ledger.claims import CLAIMS, NOT_MEASURED
from mastlib.ledger.kept import Part
from mastlib.ledger.page import SHOWN_IN, entries, linked, publish
from mastlib.ledger.shown import forest
from mastlib.ledger.verdicts import REPRODUCED, SCORE

CHAPTERS = Path(__file__).parents[2] / "chapters"


@pytest.fixture(scope="module")
def parts():
    draw = np.random.default_rng(0)
    rows = [
        (arm, seed, task, 0.5 - 0.1 * (arm == "crop") + 0.001 * draw.normal())
        for arm in ("all", "crop")
        for seed in range(3)
        for task in ("hue", "category")
    ]
    removal = pd.DataFrame(rows, columns=["arm", "seed", "task", "value"])
    return [
        Part("03_motivation_ablation", {}, ("b" * 16, "a" * 16), {"removal": removal}),
        Part("04", {}, ("c" * 16,), {}),
    ]


def test_each_claim_has_a_row_with_the_runs_that_it_rests_on(parts):
    rows = entries("smoke", parts).set_index("claim")
    assert list(rows.index) == [claim.name for claim in CLAIMS]
    assert rows.loc["M1", "verdict"] == REPRODUCED and rows.loc["M1", "runs"] == f"{'a' * 16} {'b' * 16}"
    assert rows.loc["A1", "verdict"] == NOT_MEASURED and rows.loc["A1", "runs"] == ""
    assert set(rows["tier"]) == {"smoke"}


def test_the_csv_holds_the_same_rows(parts, monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    rows = entries("smoke", parts)
    publish(rows, "smoke")
    read = pd.read_csv(tmp_path / "smoke" / "claims.csv", keep_default_na=False, na_values=["nan", ""])
    assert list(read["claim"]) == list(rows["claim"]) and list(read["verdict"]) == list(rows["verdict"])
    assert read["effect"].to_numpy() == pytest.approx(rows["effect"].to_numpy(), nan_ok=True)


def test_every_claim_is_shown_by_a_figure_that_is_there(parts):
    assert set(SHOWN_IN) == {claim.name for claim in CLAIMS}
    for chapter, figure in set(SHOWN_IN.values()):
        notebook = nbformat.read(CHAPTERS / f"{chapter}.ipynb", as_version=4)
        names = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in notebook.cells]
        assert figure in names, (chapter, figure)
    rows = entries("smoke", parts)
    assert linked(rows).iloc[0] == '<a href="03_motivation_ablation.html#fig-motivation">chapter 03</a>'


def test_the_figure_has_a_line_for_each_claim_that_was_measured_in_units_of_what_matters(parts):
    rows = entries("smoke", parts)
    figure = forest(rows)
    ax = figure.axes[0]
    measured = rows[rows["verdict"] != NOT_MEASURED]
    assert len(ax.get_yticks()) == len(measured) > 0
    assert ax.get_yticklabels()[0].get_text().startswith("M1")
    shown = np.sort(np.concatenate([c.lines[0].get_xdata() for c in ax.containers if len(c.lines[0].get_xdata())]))
    assert shown == pytest.approx(np.sort(measured["effect"] / SCORE.least))
    plt.close(figure)
    forest(rows[rows["verdict"] == NOT_MEASURED])
    plt.close("all")
