"""Evidence that chapters hand to the ledger's page: under `outputs/<tier>/evidence/`, a file for each chapter."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mastlib.errors import check_choice
from mastlib.files import outputs_dir, write_text
from mastlib.ledger.claims import EVIDENCE, ledger
from mastlib.runs import Run, RunStore
from mastlib.tiers import TIERS
from mastlib.training import identify


@dataclass(frozen=True)
class Part:
    """What one chapter handed over: its tables of evidence, the parameters that it ran with, and the ids of its runs."""

    chapter: str
    parameters: dict[str, Any]
    runs: tuple[str, ...]
    tables: dict[str, pd.DataFrame]

    def stale(self) -> list[str]:
        """Those of `runs` that are gone, or would have another id today: their spec, data or code moved since."""
        store = RunStore()
        found = {name: store.finished(name) for name in self.runs}
        return [name for name, run in found.items() if run is None or identify(run.spec)[1] != name]


def evidence_dir(tier: str) -> Path:
    """Where chapters of `tier` leave their evidence. Raises InputError for an unknown tier."""
    return outputs_dir() / check_choice("tier", tier, TIERS) / "evidence"


def keep(chapter: str, parameters: Any, runs: Iterable[Run], **tables: pd.DataFrame) -> None:
    """Hand `tables` (names and columns of `claims.EVIDENCE`) of `chapter` to the ledger, in place of what it handed over before.

    parameters: the chapter's, as `chapter.parameters` gives them; runs: those that the tables were read from. Raises InputError for
    a table that the ledger does not know or cannot read; what was there then stays.
    """
    ledger(tables)  # refuses what it cannot read
    given = {
        "chapter": chapter,
        "parameters": asdict(parameters),
        "runs": sorted({run.id for run in runs}),
        "tables": {name: table[[*EVIDENCE[name]]].to_csv(index=False) for name, table in tables.items()},
    }
    write_text(evidence_dir(parameters.tier) / f"{chapter}.json", json.dumps(given, indent=1))


def handed_over(tier: str) -> list[Part]:
    """What the chapters of `tier` handed over, in the order of the book."""
    parts = []
    for path in sorted(evidence_dir(tier).glob("*.json")):
        given = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: _table(text) for name, text in given["tables"].items()}
        parts.append(Part(given["chapter"], given["parameters"], tuple(given["runs"]), tables))
    return parts


def joined(parts: Iterable[Part]) -> dict[str, pd.DataFrame]:
    """The tables of all `parts`; of one that several chapters have rows of, all rows, each once."""
    found: dict[str, list[pd.DataFrame]] = {}
    for part in parts:
        for name, table in part.tables.items():
            found.setdefault(name, []).append(table)
    return {name: pd.concat(tables, ignore_index=True).drop_duplicates() for name, tables in found.items()}


def _table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""])
