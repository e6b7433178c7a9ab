"""The ledger's rows as pages show them: text, and a figure."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mastlib.ledger.claims import NOT_MEASURED
from mastlib.ledger.verdicts import NOT_REPRODUCED, REPRODUCED, SCORE, UNDECIDED, UNITS
from mastlib.plots import WIDTH

VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED)


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


def forest(rows: pd.DataFrame) -> Figure:
    """A line for each of `claims.ledger`'s rows that was measured: the effect that decides it with its interval, by verdict.

    Effects are in multiples of the smallest one that would matter in their unit, linear up to one and logarithmic beyond.
    """
    rows = rows[rows["verdict"] != NOT_MEASURED].reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.24 * max(len(rows), 1)), layout="constrained")
    least = rows["unit"].map(UNITS)
    colours = dict(zip(VERDICTS, (sns.color_palette()[i] for i in (2, 3, 7)), strict=True))
    for verdict, marker in zip(VERDICTS, "o^s", strict=True):
        mine = rows.index[rows["verdict"] == verdict]
        mean, low, high = ((rows[name] / least)[mine].to_numpy(float) for name in ("effect", "low", "high"))
        whiskers = np.nan_to_num(np.stack([mean - low, high - mean]))
        ax.errorbar(
            mean, mine, xerr=whiskers, fmt=marker, color=colours[verdict], label=verdict, markersize=5, linewidth=1.4
        )
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.axvspan(-1, 1, color="0.92", zorder=0)
    ax.set_yticks(range(len(rows)), [f"{row.claim}  {_short(str(row.what))}" for row in rows.itertuples()])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("effect that decides; 1 is the smallest that would matter")
    ax.grid(axis="y", visible=False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _short(text: str, length: int = 38) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
