"""One split by concept for everything, and nothing that is tested on in pre-training."""

import numpy as np
import pandas as pd
import pytest

from mastlib.data import bank
from mastlib.data.splits import SHARES, UNSEEN_VENDOR, concept_split, pretraining_weights


def test_the_split_is_a_function_of_the_concept_alone():
    concepts = pd.Series([f"c{i}" for i in range(4000)])
    split = concept_split(concepts)
    some = concepts.sample(300, random_state=0)
    np.testing.assert_array_equal(concept_split(some), split[some.index])
    for side, share in SHARES.items():
        assert np.mean(split == side) == pytest.approx(share, abs=0.03)
    assert np.mean(concept_split(concepts, seed=1) == split) < 0.7


def test_pretraining_sees_no_image_that_any_task_selects_or_tests_on():
    table = bank.load_table()
    weights = pretraining_weights(table)
    used = table[weights > 0]
    assert set(concept_split(used["concept"])) == {"train"}
    assert not (used["flag"].notna() & (used["vendor"] == UNSEEN_VENDOR)).any()
    assert not set(used["concept"]) & set(table["concept"][concept_split(table["concept"]) != "train"])


def test_tone_variants_of_a_drawing_weigh_less_each():
    table = bank.load_table()
    weights = pd.Series(pretraining_weights(table), index=table.index)
    thumbs = table["key"].str.fullmatch("1F44D(-1F3F[B-F])?") & (table["vendor"] == "twemoji")
    assert thumbs.sum() == 6 and weights[thumbs].sum() in (0.0, pytest.approx(6**0.5))
    alone = table["vendor"].eq("noto") & table["key"].eq("1F34E")  # an apple has no tones
    assert weights[alone].item() in (0.0, 1.0)
    people = table["category"] == "People & Body"
    assert weights[people].sum() / weights.sum() < 0.45 < people.mean()
