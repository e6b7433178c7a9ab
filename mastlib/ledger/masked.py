"""Tables of evidence (`claims.EVIDENCE`) from what chapters 06 and 07 measured of masks and of uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from mastlib.doubt import ALL
from mastlib.evaluation.masks import holders
from mastlib.evaluation.whitening import FULL
from mastlib.masked import Learned, alike, kin


def overlap(found: Learned) -> pd.DataFrame:
    """Cosines of two augmentations' masks by pair; "within" and "between" groups, their means; shares of dimensions that one
    subspace holds, "unique", and that several do, "shared"."""
    held = {seed: holders(masks)["share"] for seed, masks in found.masks.items()}
    shares = [(name, seed, share) for seed, one in held.items()
              for name, share in (("unique", one[1]), ("shared", one[2:].sum()))]  # fmt: skip
    related = kin(found.choosing()).query("seed != 'all'").melt("seed", ["within", "between"], "arm")
    pairs = alike(found.choosing()).rename(columns={"pair": "arm"})
    table = pd.concat([pd.DataFrame(shares, columns=["arm", "seed", "value"]), related, pairs])
    return table.astype({"seed": int, "value": float})[["arm", "seed", "value"]].reset_index(drop=True)


def variation(found: pd.DataFrame) -> pd.DataFrame:
    """Relative variation of each subspace and of the full space, of `masked.variation`; without seeds that have none in a subspace.

    A subspace without a dimension, or in which nothing varies, has no logarithm.
    """
    usable = found.groupby("seed")["value"].transform(lambda values: bool((values > 0).all()))
    return found.assign(arm=found["subspace"])[usable.astype(bool)][["arm", "seed", "augmentation", "value"]]


def ablation(found: pd.DataFrame) -> pd.DataFrame:
    """Scores in the full space and in each subspace alone, of `masked.ablation`."""
    rows = found[(found["draw"] == 0) & ((found["space"] == FULL) | found["space"].str.startswith("only "))]
    return rows.assign(arm=rows["space"])[["arm", "seed", "task", "value"]]


def strength(found: pd.DataFrame, column: str = "spearman") -> pd.DataFrame:
    """Spearman's of each augmentation's strength and its own subspace's uncertainty, of `doubt.strengths`.

    column: "shuffled" for the control, in which the strengths of each image are.
    """
    own = found[found["varied"] == found["subspace"]]
    rows = own.assign(arm=own["varied"], value=own[column])[["arm", "seed", "value"]]
    return rows.drop_duplicates(["arm", "seed"]).dropna().reset_index(drop=True)


def difficulty(errors: pd.DataFrame, followed: pd.DataFrame) -> pd.DataFrame:
    """Spearman's of each subspace's uncertainty with `doubt.errors`, and over epochs with the loss, of `doubt.training`."""
    keys = ["seed", "augmentation"]
    of_errors = errors.drop_duplicates(["error", *keys]).assign(arm=errors["error"], value=errors["spearman"])
    of_errors = of_errors[of_errors["augmentation"] != ALL]
    of_loss = [
        ("loss", *key, stats.spearmanr(part["loss"], part["uncertainty"]).statistic if _varies(part) else np.nan)
        for key, part in followed.groupby(keys, sort=False)
    ]
    columns = ["arm", *keys, "value"]
    return pd.concat([of_errors[columns], pd.DataFrame(of_loss, columns=columns)]).dropna().reset_index(drop=True)


def _varies(part: pd.DataFrame) -> bool:
    return len(part) > 2 and bool((part[["loss", "uncertainty"]].nunique() > 1).all())
