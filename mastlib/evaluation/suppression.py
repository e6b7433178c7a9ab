"""Feature suppression: what frozen features tell of two cues, an object and the digit on a badge, and what one costs the other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from mastlib.data.pools import BADGED, Pool
from mastlib.errors import InputError, check_choice, refuse
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.features import extract
from mastlib.evaluation.probes import logistic_probe
from mastlib.stats import Interval, interval, paired_difference

#: Column of the pool's table -> metric. Categories are of unlike size, digits are not.
CUES = {"category": "mean_recall", "digit": "accuracy"}


def suppression(
    backbone: nn.Module,
    pool: Pool,
    grid: Sequence[float] = L2_GRID,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Rows (badge, cue, metric, value, chance, n) of a frozen backbone on badged scenes, one for each of two logistic probes.

    `category` of the object under the badge: mean recall. `digit` on the badge: accuracy. Objects of the test images, n of them (a
    few have no category), are concepts that no probe was fitted on; of badges nothing is held out but where they lie and on what:
    they are a cue to be recognised, and how digits look in another style is a question that size does not make easier. `value`
    and `chance` (of a mean recall one over the classes; of an accuracy the most frequent class of train+val) are in [0, 1];
    `badge` is its side, in sides of the image. A badge hides a part of the object, whatever was learned: a backbone that was
    trained without badges, on the same pool, tells how much that costs.
    pool: `load_pool("badged", ...)`; grid, device: see `probes.logistic_probe`, `features.extract`.
    Raises InputError for another pool, and where features are not finite.
    Source: after Chen, Luo, Li 2021, linear evaluation of both of two competing features.
    """
    if pool.name != BADGED:
        raise refuse("pool", pool.name, BADGED)
    features, table = extract(backbone, pool.images, device=device), pool.table
    rows = []
    for cue, metric in CUES.items():
        probe = logistic_probe(features, table[cue], table["split"], grid, metric)
        held_out = table.loc[table["split"] == "test", cue]
        chance = probe.majority if metric == "accuracy" else 1 / held_out.nunique()
        rows.append((table["badge"].iloc[0], cue, metric, getattr(probe, metric), chance, probe.n_test))
    return pd.DataFrame(rows, columns=["badge", "cue", "metric", "value", "chance", "n"])


def trade_off(rows: pd.DataFrame, against: str | None = None, level: float = 0.95) -> pd.DataFrame:
    """What a larger badge does to each cue: value with the largest minus value with the smallest, paired by seed.

    rows: those of `suppression` with columns arm and seed, one for each (arm, seed, badge, cue). Gives, for each arm and cue, the
    badges `smallest` and `largest`, the difference's `mean` with its interval `low` to `high` (`stats.paired_difference`) over n
    seeds. `against`: an arm whose difference, seed by seed, is taken off: how much more than in that arm the cue rises or falls.
    An arm trained without badges has what hiding the object costs, so against it suppression is left.
    Raises InputError where a (arm, seed, badge, cue) is there twice, fewer than two badges are there, an arm lacks one, no
    seed is shared, or for an unknown `against`.
    """
    if rows.duplicated(["arm", "seed", "badge", "cue"]).any():
        raise InputError("an (arm, seed, badge, cue) is there twice; a difference takes one value of each")
    least, most = rows["badge"].min(), rows["badge"].max()
    if not least < most:
        raise refuse("badge", sorted(set(rows["badge"])), "two sizes of badges or more")
    if against is not None:
        check_choice("against", against, set(rows["arm"]))
    wide = rows.pivot(index=["arm", "cue", "seed"], columns="badge", values="value")
    change = (wide[most] - wide[least]).dropna().reset_index(name="value")
    found = []
    for arm, cue in rows[["arm", "cue"]].drop_duplicates().itertuples(index=False):
        if arm != against:
            own = _of(change, arm, cue)
            mean = interval(own, level) if against is None else paired_difference(own, _of(change, against, cue), level)
            found.append((arm, cue, least, most, *mean))
    return pd.DataFrame(found, columns=["arm", "cue", "smallest", "largest", *Interval._fields])


def _of(change: pd.DataFrame, arm: str, cue: str) -> pd.Series:
    """The changes of `cue` in `arm` by seed."""
    own = change[(change["arm"] == arm) & (change["cue"] == cue)].set_index("seed")["value"]
    if own.empty:
        raise InputError(f"arm {arm!r} has no seed whose {cue} was read with the smallest and the largest badge")
    return own
