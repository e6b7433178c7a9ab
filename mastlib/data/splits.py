"""Which concepts may be trained on: one split for pre-training, model selection and every task."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

SHARES = {"train": 0.65, "val": 0.15, "test": 0.20}
TONES = "-1F3F[B-F]"  # the five tone modifiers in a key
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

    Only training concepts, without the unseen vendor's flags. Where a vendor draws one emoji in n tones, each of the n weighs
    1 / sqrt(n): people would fill two thirds of the set if all weighed alike, and tones would hardly be seen at 1 / n.
    """
    allowed = (concept_split(table["concept"]) == "train") & ~(
        (table["vendor"] == UNSEEN_VENDOR) & table["flag"].notna()
    ).to_numpy()
    drawing = table["vendor"] + " " + table["key"].str.replace(TONES, "", regex=True)
    return np.where(allowed, drawing.map(drawing.value_counts()).to_numpy() ** -0.5, 0.0)
