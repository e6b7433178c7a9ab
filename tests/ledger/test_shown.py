"""Rows of the ledger as text."""

import math

import pandas as pd

from mastlib.ledger.claims import COLUMNS, NOT_MEASURED
from mastlib.ledger.shown import told

ROW = dict.fromkeys(COLUMNS, "") | {"n": 3, "level": 0.95}


def test_scores_are_points_and_the_level_is_said_where_it_is_another():
    rows = pd.DataFrame(
        [
            ROW | {"verdict": "reproduced", "effect": 0.0312, "low": 0.01, "high": 0.0525, "unit": "score"},
            ROW
            | {"verdict": "not reproduced", "effect": -0.5, "low": -0.7, "high": -0.3, "unit": "nats", "level": 0.975},
            ROW | {"verdict": "undecided", "effect": 0.5, "low": math.nan, "high": math.nan, "unit": "score", "n": 1},
            ROW
            | {
                "verdict": NOT_MEASURED,
                "what": "no table",
                "effect": math.nan,
                "low": math.nan,
                "high": math.nan,
                "n": 0,
            },
        ]
    )
    found = told(rows)
    assert list(found["effect"]) == ["+3.1 points", "-0.50 nats", "+50.0 points", ""]
    assert list(found["interval"]) == ["[+1.0, +5.2]", "[-0.70, -0.30] at 97.5%", "no interval", ""]
    assert list(found["n"]) == ["3", "3", "1", ""]
