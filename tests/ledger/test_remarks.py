"""A claim that is not reproduced is shown with what was tried and why it may differ; others are not."""

from __future__ import annotations

import pandas as pd
import pytest

from mastlib.ledger.claims import CLAIMS, NOT_MEASURED
from mastlib.ledger.remarks import REMARKS, remarks
from mastlib.ledger.verdicts import NOT_REPRODUCED, REPRODUCED, UNDECIDED


@pytest.mark.parametrize("claim", [claim.name for claim in CLAIMS])
def test_every_claim_has_something_to_say_should_it_fail(claim):
    assert all(len(text.split()) > 3 and text.endswith(".") for text in REMARKS[claim])


def test_there_is_no_remark_without_a_claim():
    assert list(REMARKS) == [claim.name for claim in CLAIMS]


def test_only_what_did_not_come_out_is_remarked_on():
    verdicts = {"M1": NOT_REPRODUCED, "A4": REPRODUCED, "C1": UNDECIDED, "I6": NOT_MEASURED}
    rows = pd.DataFrame(verdicts.items(), columns=["claim", "verdict"]).assign(says="something", what="an effect")
    found = remarks(rows)
    assert list(found["claim"]) == ["M1", "C1"] and list(found["verdict"]) == [NOT_REPRODUCED, UNDECIDED]
    assert list(found["tried"]) == [REMARKS["M1"].tried, REMARKS["C1"].tried]
    assert list(found["why it may differ"]) == [REMARKS["M1"].why, REMARKS["C1"].why]
    assert remarks(rows[rows["verdict"] == REPRODUCED]).empty
