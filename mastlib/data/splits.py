"""Which concepts may be trained on: one split for pre-training, model selection and every task."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

SHARES = {"train": 0.65, "val": 0.15, "test": 0.20}
UNSEEN_VENDOR = "fluent-3d"  # its flags are the flag task's test images


def concept_split(concepts: pd.Series, seed: int = 0) -> np.ndarray:
    """ "train", "val" or "test" for each concept, by a hash of (seed, concept): independent of which images are present."""

    def side(concept: str) -> str:
        digest = hashlib.sha256(f"{seed}:{concept}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64
        return "train" if u < SHARES["train"] else "val" if u < SHARES["train"] + SHARES["val"] else "test"

    sides = {concept: side(concept) for concept in concepts.unique()}
    return concepts.map(sides).to_numpy()


def pretraining_weights(table: pd.DataFrame) -> np.ndarray:
    """The probability weight of each bank row in pre-training scenes, `(rows,)`: 0 for every image a task selects or tests on.

    Only training concepts, without the unseen vendor's flags; every concept alike, however many tones and vendors draw it.
    """
    allowed = (concept_split(table["concept"]) == "train") & ~(
        (table["vendor"] == UNSEEN_VENDOR) & table["flag"].notna()
    )
    per_concept = table["concept"].where(allowed).map(table["concept"][allowed].value_counts())
    return np.where(allowed, 1 / per_concept.fillna(1), 0.0)
