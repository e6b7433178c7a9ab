"""The ledger's rows as pages show them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from mastlib.ledger.claims import NOT_MEASURED
from mastlib.ledger.verdicts import SCORE


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `claims.ledger` as text: claim, says, test, verdict, "decided by", effect, interval, n. Scores are in points."""
    every: list[Any] = list(rows.itertuples())
    return pd.DataFrame(
        [
            (row.claim, row.says, row.test, row.verdict, row.what, *_spelled(row), "" if math.isnan(row.effect) else str(row.n))
            for row in every
        ],
        columns=["claim", "says", "test", "verdict", "decided by", "effect", "interval", "n"],
    )  # fmt: skip


def _spelled(row: Any) -> tuple[str, str]:
    if row.verdict == NOT_MEASURED or math.isnan(row.effect):
        return "", ""
    scale, digits, unit = (100, 1, "points") if row.unit == SCORE.name else (1, 2, row.unit)
    mean, low, high = (f"{scale * x:+.{digits}f}" for x in (row.effect, row.low, row.high))
    wider = "" if row.level == 0.95 else f" at {100 * row.level:.4g}%"
    return f"{mean} {unit}", f"[{low}, {high}]{wider}" if math.isfinite(row.low) else "no interval"
