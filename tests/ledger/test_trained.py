"""What the arms of MAST's chapter are called in the tables that claims read."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from mastlib import cost
from mastlib.evaluation.tasks import get_task, list_tasks
from mastlib.experiments import mast
from mastlib.ledger import trained
from mastlib.ledger.claims import EVIDENCE, NOT_MEASURED, answers
from mastlib.ledger.verdicts import NOT_REPRODUCED, REPRODUCED
from mastlib.study import RANDOM, Study

SETS = ("standard5", "extended15")
ARMS = mast("smoke", *SETS, [0.15, 0.4], {})


def scores(**of_arm):
    """A study whose arms, `_` for blanks and commas, have these scores on every task."""
    rows = [
        (arm, seed, task, get_task(task).metric, of_arm.get(arm.replace(",", "").replace(" ", "_"), 0.5) + 0.001 * seed)
        for arm, seed, task in itertools.product([*ARMS, RANDOM], range(3), list_tasks())
    ]
    return Study({}, pd.DataFrame(rows, columns=["arm", "seed", "task", "metric", "value"]), [])


def decided(**tables):
    return answers(tables).set_index("claim")


def test_scores_reach_the_claims_they_are_for():
    study = scores(MAST_15=0.6, MAST_5=0.52, MAST_5_sure=0.51, MAST_15_sure=0.53, VICReg_15=0.51, LooC_5=0.7)
    table = trained.masked(study, *SETS)
    assert list(table) == list(EVIDENCE["masked"])
    assert set(table["arm"]) == {"host 5", "host 15", "mast 5", "mast 15", "sure 5", "sure 15", "looc"}
    found = decided(masked=table, cost=pd.DataFrame(columns=EVIDENCE["cost"]))
    assert found.loc["M4", "effect"] == pytest.approx(0.6 - 0.51)
    assert found.loc["M5", "effect"] == pytest.approx((0.6 - 0.52) - (0.51 - 0.5))
    assert found.loc["M6", "effect"] == pytest.approx((0.6 - 0.53) - (0.52 - 0.51))
    assert found.loc["M11", "effect"] == pytest.approx(0.52 - 0.7)
    assert found.loc[["M4", "M5", "M6", "M11"], "verdict"].to_list() == [REPRODUCED] * 3 + [NOT_REPRODUCED]


def test_an_arm_that_has_no_rows_leaves_its_claims_unmeasured_and_no_other():
    rows = scores(MAST_15=0.6).every_metric.query("arm != 'MAST 15, sure'")
    found = decided(masked=trained.masked(Study({}, rows, []), *SETS))
    assert found.loc["M6", "verdict"] == NOT_MEASURED and found.loc["M4", "verdict"] == REPRODUCED


def test_sets_of_other_sizes_are_called_five_and_fifteen_too():
    rows = scores().every_metric.replace({"arm": {"VICReg 5": "VICReg 2", "MAST 15": "MAST 5"}})
    table = trained.masked(
        Study({}, rows[rows["arm"].isin(["VICReg 2", "MAST 5"])].drop_duplicates(), []), "spatial", "default"
    )
    assert set(table["arm"]) == {"host 5", "mast 15"}


@pytest.mark.parametrize(("of_mast", "verdict"), [(-0.01, REPRODUCED), (-0.1, NOT_REPRODUCED)])
def test_what_a_larger_badge_costs_is_held_against_training_without_badges_and_the_host(of_mast, verdict):
    lost = {"VICReg 5, badge": -0.1, "MAST 5, badge": of_mast, "MAST 5": -0.02, "VICReg 5": -0.02}
    rows = [
        (
            f"{arm} {badge:g}" if arm.endswith("badge") else arm,
            seed,
            badge,
            cue,
            0.5 + (badge == 0.4) * step + 0.001 * seed**2,
        )
        for (arm, step), seed, badge, cue in itertools.product(
            lost.items(), range(3), (0.15, 0.4), ("category", "digit")
        )
    ]
    found = pd.DataFrame(rows, columns=["arm", "seed", "badge", "cue", "value"]).assign(chance=0.1)
    assert {arm for arm in found["arm"] if "badge" in arm} <= set(ARMS)
    table = trained.cues(found, *SETS)
    assert list(table) == list(EVIDENCE["cues"]) and table.groupby("arm").size().to_dict() == dict.fromkeys(
        ("clean", "host", "mast"), 12
    )
    assert decided(cues=table).loc["M10", "verdict"] == verdict


def test_prices_are_of_arms_that_differ_in_one_method(monkeypatch):
    seen = []
    monkeypatch.setattr(cost, "costs", lambda specs, pairs, rounds: seen.append((specs, pairs)) or pd.DataFrame())
    trained.priced("smoke", *SETS, ARMS, {})
    ((specs, pairs),) = seen
    told = {
        name: [(specs[one].host, specs[one].awareness, specs[one].augmentations) for one in pair]
        for name, pair in pairs.items()
    }
    few, many = SETS
    assert told == {
        "mast": [("vicreg", "mast", many), ("vicreg", "none", many)],
        "mast, few": [("vicreg", "mast", few), ("vicreg", "none", few)],
        "looc": [("moco", "looc", few), ("vicreg", "mast", few)],
        "looc, host": [("moco", "looc", few), ("moco", "none", few)],
        "augself": [("simsiam", "augself", few), ("simsiam", "none", few)],
    }
    assert specs["MAST 15"].uncertainty == "reweight"


def test_augself_is_priced_with_the_targets_that_views_have(monkeypatch):
    monkeypatch.setattr(cost, "costs", lambda specs, pairs, rounds: (specs, pairs))

    def targets(few, **overrides):
        arms = mast("smoke", few, "extended15", [0.15, 0.4], overrides)
        specs, pairs = trained.priced("smoke", few, "extended15", arms, overrides)
        assert {*specs} == {name for pair in pairs.values() for name in pair}
        return specs[pairs["augself"][0]].augself_tasks if "augself" in pairs else ()

    assert targets("standard5") == ("crop", "color") and targets("spatial") == ("crop",)
    assert targets("appearance") == ("color",) and targets("standard5", without=["crop", "color"]) == ()


def test_costs_of_the_claims_are_kept_and_others_are_not():
    rows = [
        (arm, "x", m, 1.1, 1.0, 1.2, 1, 1)
        for arm in ("mast", "mast, few", "augself", "looc")
        for m in ("seconds", "memory")
    ]
    table = trained.cost(pd.DataFrame(rows, columns=cost.COLUMNS))
    assert list(table) == list(EVIDENCE["cost"]) and set(table["arm"]) == {"mast", "augself", "looc"}
    found = decided(cost=table)
    assert found.loc[["M14", "A9"], "verdict"].to_list() == [REPRODUCED] * 2
