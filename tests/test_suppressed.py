"""Networks are asked about badges of the size that they were trained with, others about all sizes, each once."""

from __future__ import annotations

import pandas as pd
import pytest

from mastlib import suppressed
from mastlib.data.pools import load_pool
from mastlib.evaluation.suppression import suppression
from mastlib.study import run_study, tier_grid
from mastlib.tiers import TIERS, tier_spec

TINY = {"width": 4, "images": 128, "batch_size": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
SIZES = (0.15, 0.4)


@pytest.fixture(scope="module")
def study():
    plain = tier_spec("smoke", augmentations="standard5", **TINY)
    return run_study({"plain": plain, "large": plain.replace(badge=0.4), "other": plain}, [0, 1], "smoke", ["tone"])


def test_cues_are_those_of_the_network_on_scenes_with_its_badges(study, monkeypatch):
    found = suppressed.cues(study, ["plain", "large"], SIZES, "smoke")
    asked = found.groupby(["arm", "seed"])["badge"].unique().map(list).to_dict()
    assert asked == {(arm, s): sizes for arm, sizes in (("large", [0.4]), ("plain", [0.15, 0.4])) for s in (0, 1)}
    (model,) = (model for model in study.models(["large"]) if model.seed == 1)
    pool = load_pool("badged", 16, TIERS["smoke"].pools["objects"], 0.4)
    mine = found[(found["arm"] == "large") & (found["seed"] == 1)].reset_index(drop=True)
    direct = suppression(model.backbone(), pool, tier_grid("smoke"))
    pd.testing.assert_frame_equal(mine[direct.columns], direct)
    monkeypatch.setattr(suppressed, "suppression", lambda *_: pytest.fail("was asked before"))
    pd.testing.assert_frame_equal(suppressed.cues(study, ["plain", "large"], SIZES, "smoke"), found)


def test_no_network_gives_a_table_without_rows(study):
    found = suppressed.cues(study, [], SIZES, "smoke")
    assert found.empty and list(found) == suppressed.COLUMNS
