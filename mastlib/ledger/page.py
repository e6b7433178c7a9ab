"""The ledger of a tier: verdicts on all claims, by the evidence that its chapters handed over, and where each is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pandas as pd

from mastlib.files import outputs_dir, write_text
from mastlib.ledger.claims import CLAIMS, ledger
from mastlib.ledger.kept import Part, joined

#: Claim -> (chapter, name of the figure or table there) that shows it best.
SHOWN_IN: Mapping[str, tuple[str, str]] = MappingProxyType(
    dict.fromkeys(("M1", "M2", "M3"), ("03_motivation_ablation", "fig-motivation"))
    | dict.fromkeys(("I1",), ("08_why_transfer", "fig-why-synthetic"))
    | dict.fromkeys(("I2",), ("08_why_transfer", "fig-why-trade-off"))
    | dict.fromkeys(("I3",), ("08_why_transfer", "fig-why-intrinsic"))
    | dict.fromkeys(("I4", "I5", "I6"), ("08_why_transfer", "fig-why-effects"))
)


def entries(tier: str, parts: Iterable[Part]) -> pd.DataFrame:
    """Rows of `claims.ledger`, with columns tier, chapter, figure, and the ids of the runs that each rests on."""
    parts = list(parts)
    rows = ledger(joined(parts))
    needs = {claim.name: set(claim.needs) for claim in CLAIMS}
    runs = [
        " ".join(sorted({run for part in parts if needs[claim] & set(part.tables) for run in part.runs}))
        for claim in rows["claim"]
    ]
    places = [SHOWN_IN[claim] for claim in rows["claim"]]
    return rows.assign(tier=tier, chapter=[c for c, _ in places], figure=[f for _, f in places], runs=runs)


def publish(rows: pd.DataFrame, tier: str) -> None:
    """`entries` as `outputs/<tier>/claims.csv`."""
    write_text(outputs_dir() / tier / "claims.csv", rows.to_csv(index=False))


def linked(rows: pd.DataFrame) -> pd.Series:
    """For each of the `entries` an HTML link, for a page beside the chapters, to where it is shown."""
    return pd.Series(
        [
            f'<a href="{chapter}.html#{figure}">chapter {chapter[:2]}</a>'
            for chapter, figure in zip(rows["chapter"], rows["figure"], strict=True)
        ],
        index=rows.index,
    )
