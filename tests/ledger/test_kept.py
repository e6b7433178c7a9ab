"""Evidence from chapters to the ledger's page and back."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from mastlib.errors import InputError
from mastlib.ledger import kept
from mastlib.ledger.kept import Part, handed_over, joined, keep

REMOVAL = pd.DataFrame(
    {"arm": ["all", "crop"] * 2, "seed": [0, 0, 1, 1], "task": "hue", "value": [0.1 + 0.2, 0.2, 0.4, 0.1], "more": 1}
)
COST = pd.DataFrame({"arm": ["mast"], "measure": ["seconds"], "value": [1.2], "low": [1.1], "high": [1.3]})


@dataclasses.dataclass(frozen=True)
class Given:
    tier: str = "smoke"
    seeds: tuple[int, ...] = (0, 1)


@pytest.fixture(autouse=True)
def outputs(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    return tmp_path


def test_tables_come_back_to_the_last_bit_without_columns_that_the_ledger_does_not_read():
    keep("03_motivation", Given(), [], removal=REMOVAL)
    [part] = handed_over("smoke")
    pd.testing.assert_frame_equal(part.tables["removal"], REMOVAL.drop(columns="more"), check_exact=True)
    assert part.chapter == "03_motivation" and part.parameters["seeds"] == [0, 1] and part.runs == ()


def test_a_chapter_replaces_what_it_handed_over_and_no_other_tier_sees_it():
    keep("03_motivation", Given(), [], removal=REMOVAL)
    keep("03_motivation", Given(), [], removal=REMOVAL.iloc[:2])
    assert [len(part.tables["removal"]) for part in handed_over("smoke")] == [2]
    assert handed_over("laptop") == []


def test_a_table_of_two_chapters_has_the_rows_of_both_each_once():
    keep("04_mast", Given(), [], cost=COST)
    keep("05_rivals", Given(), [], cost=pd.concat([COST, COST.assign(arm="augself")]))
    assert list(joined(handed_over("smoke"))["cost"]["arm"]) == ["mast", "augself"]


def test_what_the_ledger_cannot_read_is_refused_and_what_was_there_stays():
    keep("03_motivation", Given(), [], removal=REMOVAL)
    with pytest.raises(InputError, match="columns arm, seed, task, value"):
        keep("03_motivation", Given(), [], removal=REMOVAL.drop(columns="task"))
    with pytest.raises(InputError, match="table"):
        keep("03_motivation", Given(), [], other=REMOVAL)
    assert len(handed_over("smoke")) == 1


def test_runs_that_are_gone_or_of_other_code_are_stale(monkeypatch):
    class Store:
        def finished(self, name):
            return None if name == "gone" else type("Run", (), {"spec": name})

    monkeypatch.setattr(kept, "RunStore", Store)
    monkeypatch.setattr(kept, "identify", lambda spec: (spec, "moved" if spec == "old" else spec, {}))
    assert Part("03", {}, ("now", "gone", "old"), {}).stale() == ["gone", "old"]
