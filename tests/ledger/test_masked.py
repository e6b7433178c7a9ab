"""Tables of masks and of uncertainty are what their claims read, and what is not there is left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mastlib.doubt import ALL
from mastlib.ledger import masked as evidence
from mastlib.ledger.claims import EVIDENCE, NOT_MEASURED, answers
from mastlib.ledger.verdicts import REPRODUCED
from mastlib.masked import Learned

OPS = ("color", "grayscale", "crop", "flip")
GROUPS = dict(zip(OPS, ("appearance", "appearance", "spatial", "spatial"), strict=True))
SEEDS = range(3)


def learned(flat: bool = False) -> Learned:
    """Of ten dimensions color and grayscale share 0 to 3, crop and flip 4 to 6; 7 is crop's, 8 color's, 9 nobody's."""
    rows = torch.zeros(4, 10)
    rows[:2, :4], rows[2:, 4:7], rows[2, 7], rows[0, 8] = 1.0, 1.0, 1.0, 1.0
    if flat:
        rows[3] = 1.0
    return Learned(OPS, GROUPS, dict.fromkeys(SEEDS, rows))


def test_overlap_has_shares_groups_and_pairs():
    table = evidence.overlap(learned())
    assert tuple(table.columns) == EVIDENCE["overlap"] and not table.duplicated(["arm", "seed"]).any()
    values = table[table["seed"] == 2].set_index("arm")["value"]
    assert (values["unique"], values["shared"]) == pytest.approx((0.2, 0.7))
    assert values["color, grayscale"] == pytest.approx(np.corrcoef(learned().masks[0].numpy())[0, 1])
    assert values["within"] == pytest.approx(values[["color, grayscale", "crop, flip"]].mean())
    assert values["between"] == pytest.approx(
        values[["color, crop", "color, flip", "crop, grayscale", "flip, grayscale"]].mean()
    )
    (row,) = answers({"overlap": table}).itertuples()
    assert row.claim == "M7" and row.verdict == REPRODUCED
    left = evidence.overlap(learned(flat=True))
    assert not left["arm"].str.contains("flip").any() and np.isfinite(left["value"]).all()


def test_without_related_augmentations_the_claim_is_not_measured():
    few = Learned(OPS[::2], GROUPS, {seed: rows[::2] for seed, rows in learned().masks.items()})
    (row,) = answers({"overlap": evidence.overlap(few)}).itertuples()
    assert row.verdict == NOT_MEASURED


def test_variation_is_of_seeds_that_vary_in_every_subspace():
    rows = [
        ("MAST", seed, space, name, 0.2 if space == name else 0.5)
        for seed in SEEDS
        for space in (*OPS, "full space")
        for name in OPS
    ]
    found = pd.DataFrame(rows, columns=["arm", "seed", "subspace", "augmentation", "value"])
    assert tuple(evidence.variation(found).columns) == EVIDENCE["variation"]
    (row,) = answers({"variation": evidence.variation(found)}).itertuples()
    assert row.claim == "M8" and row.verdict == REPRODUCED
    assert row.effect == pytest.approx(np.log(0.5 / 0.2))
    for gone in (0.0, np.nan):
        found.loc[3, "value"] = gone
        assert set(evidence.variation(found)["seed"]) == {1, 2}


def test_ablation_is_of_each_subspace_alone():
    spaces = ["full space", "only crop", "random as only crop", "without crop"]
    found = pd.DataFrame(
        [("MAST", s, t, x, int("random" in x), 0.5 - 0.1 * (x == "only crop"))
         for s in SEEDS for t in ("tone", "flag") for x in spaces],
        columns=["arm", "seed", "task", "space", "draw", "value"],
    )  # fmt: skip
    table = evidence.ablation(found)
    assert tuple(table.columns) == EVIDENCE["ablation"] and set(table["arm"]) == {"full space", "only crop"}
    (row,) = answers({"ablation": table}).itertuples()
    assert row.claim == "M9" and row.verdict == REPRODUCED and row.effect == pytest.approx(0.1)


def test_strength_is_of_an_augmentation_in_its_own_subspace():
    found = pd.DataFrame(
        [("MAST", s, a, b, x, 0.6 if a == b else -0.9, 0.01 * s)
         for s in SEEDS for a in (*OPS, "operations") for b in OPS for x in (0.0, 1.0)],
        columns=["arm", "seed", "varied", "subspace", "level", "spearman", "shuffled"],
    )  # fmt: skip
    table = evidence.strength(found)
    assert tuple(table.columns) == EVIDENCE["strength"] and set(table["arm"]) == set(OPS) and len(table) == 12
    (row,) = answers({"strength": table}).itertuples()
    assert row.claim == "M12" and row.verdict == REPRODUCED
    (row,) = answers({"strength": evidence.strength(found, "shuffled")}).itertuples()
    assert row.verdict != REPRODUCED


def test_difficulty_follows_errors_and_the_loss():
    errors = pd.DataFrame(
        [("MAST", s, e, a, b, 0.4) for s in SEEDS for e in ("neighbours", "probe") for a in (*OPS, ALL) for b in (0, 1)],
        columns=["arm", "seed", "error", "augmentation", "bin", "spearman"],
    )  # fmt: skip
    followed = pd.DataFrame(
        [("MAST", s, a, epoch, loss, -1 / loss) for s in SEEDS for a in OPS
         for epoch, loss in enumerate((3.0, 2.0, 2.5, 1.0))],
        columns=["arm", "seed", "augmentation", "epoch", "loss", "uncertainty"],
    )  # fmt: skip
    table = evidence.difficulty(errors, followed)
    assert tuple(table.columns) == EVIDENCE["difficulty"] and set(table["arm"]) == {"neighbours", "probe", "loss"}
    assert len(table) == 3 * 3 * 4 and (table[table["arm"] == "loss"]["value"] == 1).all()
    (row,) = answers({"difficulty": table}).itertuples()
    assert row.claim == "M13" and row.verdict == REPRODUCED
    still = followed.assign(uncertainty=1.0)
    assert set(evidence.difficulty(errors, still)["arm"]) == {"neighbours", "probe"}
