"""Tables of evidence (`claims.EVIDENCE`) from what chapters measured."""

from __future__ import annotations

import pandas as pd

from mastlib.experiments import ALL, FAMILIES, WITHOUT
from mastlib.study import RANDOM, Study

#: What truly changes -> the transforms that an invariance to it would carry over from.
CARRIED = {"viewpoint": "spatial", "light": "appearance", "camera": "appearance"}


def removal(study: Study) -> pd.DataFrame:
    """Scores with all augmentations (arm "all") and without each in turn (its name), of a study of `experiments.motivation`."""
    rows = study.rows
    mine = rows[(rows["arm"] == ALL) | rows["arm"].str.startswith(WITHOUT)]
    return mine.assign(arm=mine["arm"].str.removeprefix(WITHOUT))


def synthetic(found: pd.DataFrame) -> pd.DataFrame:
    """Cosines under synthetic transforms, of `families.invariances`."""
    mine = found[(found["kind"] == "synthetic") & (found["measure"] == "cosine")]
    return _families(mine)[["arm", "seed", "group", "transform", "value"]]


def intrinsic(found: pd.DataFrame) -> pd.DataFrame:
    """Cosines under what truly changes, by the group of transforms that it belongs to."""
    mine = found[(found["kind"] == "intrinsic") & (found["measure"] == "cosine") & found["group"].isin(CARRIED)]
    mine = mine.assign(group=mine["group"].map(CARRIED)).rename(columns={"transform": "change"})
    return _families(mine)[["arm", "seed", "group", "change", "value"]]


def families(study: Study, fused: pd.DataFrame) -> pd.DataFrame:
    """Scores of the three families, of random weights, and of `fused` and "wide" ones (`families.fusions`)."""
    rows = pd.concat([_families(study.rows), fused], ignore_index=True)
    return rows[["arm", "seed", "task", "value"]]


def _families(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the three families and of random weights, "random"."""
    named = rows.assign(arm=rows["arm"].replace(RANDOM, "random"))
    return named[named["arm"].isin((*FAMILIES, "random"))]
