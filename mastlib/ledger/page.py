"""The ledger of a tier: verdicts on all claims, by the evidence that its chapters handed over, and where each is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pandas as pd

from mastlib.files import outputs_dir, write_text
from mastlib.ledger.claims import CLAIMS, ledger
from mastlib.ledger.kept import Part, joined

#: Chapter -> its figures -> the claims that each shows best.
FIGURES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "03_motivation_ablation": {"fig-motivation": "M1 M2 M3"},
        "04_mast_training": {"fig-mast-groups": "M4 M5 M6 M11", "fig-mast-cues": "M10", "fig-mast-cost": "M14 A9"},
        "05_augself_cassle": {
            "fig-augself-cassle-targets": "A1 A2 A3", "fig-augself-cassle-map": "A4 A6 C1", "fig-augself-cassle-few": "A5",
            "fig-augself-cassle-information": "A7", "fig-augself-cassle-hue": "A8 C5", "fig-augself-cassle-told": "C2",
            "fig-augself-cassle-layers": "C3", "fig-augself-cassle-modes": "C4",
        },
        "06_mask_analysis": {"fig-subspaces-overlap": "M7", "fig-subspaces-own": "M8", "fig-masks-alone": "M9"},
        "07_uncertainty": {"fig-doubt-strength": "M12", "fig-doubt-errors": "M13"},
        "08_why_transfer": {
            "fig-why-synthetic": "I1", "fig-why-trade-off": "I2", "fig-why-intrinsic": "I3", "fig-why-effects": "I4 I5 I6",
        },
    }
)  # fmt: skip
SHOWN_IN = {
    claim: (chapter, figure)
    for chapter, figures in FIGURES.items()
    for figure, claims in figures.items()
    for claim in claims.split()
}


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
