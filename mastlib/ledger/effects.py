"""How each claim is decided: from tables of evidence to effects, in the claim's direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mastlib.changes import Nothing, change, over
from mastlib.evaluation.tasks import FEW_SHOT, TASK_GROUPS, get_task, list_tasks
from mastlib.ledger.verdicts import (
    CORRELATION,
    COSINE,
    LOGRATIO,
    NATS,
    RANK,
    SCORE,
    SHARE,
    Effect,
    correlation,
    effect,
    gain,
    gain_of_arms,
    gain_of_each,
    share_above,
)
from mastlib.stats import Interval, crossed, interaction, two_groups

Tables = Mapping[str, pd.DataFrame]

COLOUR, PLACE, RECOGNITION = (frozenset(TASK_GROUPS[name]) for name in ("colour", "place and size", "recognition"))
POSE = PLACE | {*TASK_GROUPS["orientation"]}
FEW_SHOT_TASKS = frozenset(task.name for task in map(get_task, list_tasks()) if task.kind == FEW_SHOT)
POSE_LATENTS, COLOUR_LATENTS = {"position", "scale", "rotation"}, {"hue_shift", "light_hue", "background_hue"}
FINE_GRAINED = "species"
DEAR = 1.25  # times the host's cost, from which on it is no longer "about" the same


def _of(rows: pd.DataFrame, tasks: frozenset[str] | set[str]) -> pd.DataFrame:
    return rows[rows["task"].isin(tasks)]


# --- MAST ---


def crop_hurts(tables: Tables) -> list[Effect]:
    return gain_of_each(tables["removal"], over("all", "crop"))


def others_differ(tables: Tables) -> list[Effect]:
    rows = tables["removal"]
    arms = [arm for arm in rows["arm"].unique() if arm not in ("all", "crop")]
    if len(arms) < 2:
        raise Nothing(f"{len(arms)} augmentations besides the crop; an interaction needs two")
    values = np.stack([change(rows, {arm: 1.0}).to_numpy() for arm in arms], axis=1)
    if min(values.shape) < 2:
        raise Nothing(f"{values.shape} seeds, augmentations and tasks; an interaction needs two of each")
    return [effect("deviation of augmentation x task", partial(interaction, values), SCORE)]


def jitter_hurts(tables: Tables) -> list[Effect]:
    rows, fine = tables["removal"], {FINE_GRAINED}
    rest = RECOGNITION - fine
    return [
        gain(f"{FINE_GRAINED} without jitter", _of(rows, fine), over("color", "all")),
        gain("recognition with jitter", _of(rows, rest), over("all", "color")),
    ]


def beats_host(tables: Tables) -> list[Effect]:
    return [gain("MAST over its host", tables["masked"], over("mast 15", "host 15"))]


def fifteen_help(tables: Tables) -> list[Effect]:
    rows = tables["masked"]
    more = {**over("mast 15", "mast 5"), **over("host 5", "host 15")}
    return [
        gain("MAST with 15 over 5", rows, over("mast 15", "mast 5")),
        gain("that, over the same of the host", rows, more),
    ]


def uncertainty_helps(tables: Tables) -> list[Effect]:
    rows = tables["masked"]
    more = {**over("mast 15", "sure 15"), **over("sure 5", "mast 5")}
    return [
        gain("with uncertainty over without, 15", rows, over("mast 15", "sure 15")),
        gain("that, over the same with 5", rows, more),
    ]


def shared_and_unique(tables: Tables) -> list[Effect]:
    rows = tables["overlap"]
    return [
        gain("dimensions in one subspace", rows, {"unique": 1.0}, SHARE, ()),
        gain("dimensions in several", rows, {"shared": 1.0}, SHARE, ()),
        gain("related pairs over others", rows, over("within", "between"), SHARE, ()),
        gain("jitter with grayscale over with crop", rows, over("color, grayscale", "color, crop"), SHARE, ()),
    ]


def own_invariance(tables: Tables) -> list[Effect]:
    rows = tables["variation"]
    wide = rows.pivot(index=["seed", "augmentation"], columns="arm", values="value").apply(np.log)
    relative = wide.sub(wide["full space"], axis=0).drop(columns="full space")
    mine = pd.Series(
        [-relative.loc[(seed, name), name] for seed, name in relative.index], index=relative.index, name="value"
    )
    others = pd.Series(
        [relative.xs(seed)[name].drop(name).mean() for seed, name in relative.index], index=relative.index
    )
    found = []
    for what, values in (("over the full space", mine), ("over what it has of the others", mine + others)):
        found.append(effect(what, partial(crossed, values.unstack("augmentation")), LOGRATIO))
    return found


def whole_is_best(tables: Tables) -> list[Effect]:
    rows = tables["ablation"]
    alone = [arm for arm in rows["arm"].unique() if arm.startswith("only ")]
    return [gain(f"full space over {arm}", rows, over("full space", arm), as_good_as=True) for arm in alone]


def cues_survive(tables: Tables) -> list[Effect]:
    rows = tables["cues"]
    least, most = rows["badge"].min(), rows["badge"].max()
    wide = rows[rows["cue"] == "category"].pivot(index=["arm", "seed"], columns="badge", values="value")
    lost = (wide[most] - wide[least]).rename("value").reset_index()
    return [
        gain(
            "the object with a larger badge, over training without badges",
            lost,
            over("mast", "clean"),
            SCORE,
            (),
            as_good_as=True,
        ),
        gain("the same, over its host", lost, over("mast", "host"), SCORE, ()),
    ]


def rivals_looc(tables: Tables) -> list[Effect]:
    found = [gain("MAST over LooC", tables["masked"], over("mast 5", "looc"), as_good_as=True)]
    return found + [_log_ratio(f"LooC's {row.measure} over MAST's", row, 1.0) for row in _cost(tables, "looc")]


def cheap(arm: str) -> Callable[[Tables], list[Effect]]:
    def effects(tables: Tables) -> list[Effect]:
        return [
            _log_ratio(f"{DEAR} over {row.measure}", row, DEAR)
            for row in _cost(tables, arm)
            if row.measure != "parameters"
        ]

    return effects


def _cost(tables: Tables, arm: str) -> list[Any]:
    return list(tables["cost"][tables["cost"]["arm"] == arm].itertuples())


def _log_ratio(what: str, row: Any, bar: float) -> Effect:
    """log(value) above 0, or with a `bar` on a cost log(bar / value): how far a cost is below it; bounds are the rounds'."""
    mean, low, high = (math.log(x) for x in (row.value, row.low, row.high))
    if bar == 1:
        return effect(what, lambda level: Interval(mean, low, high, 1), LOGRATIO)
    far = math.log(bar)
    return Effect(what, lambda level: Interval(far - mean, far - high, far - low, 1), LOGRATIO.name, 0.0, 0.0)


def rises(tables: Tables) -> list[Effect]:
    return gain_of_arms(tables["strength"], CORRELATION)


def difficulty(tables: Tables) -> list[Effect]:
    rows = tables["difficulty"]
    return [gain(f"with {arm}", rows, {arm: 1.0}, CORRELATION, ("augmentation",)) for arm in rows["arm"].unique()]


# --- AugSelf ---


def target_helps(target: str, tasks: frozenset[str], where: str) -> Callable[[Tables], list[Effect]]:
    def effects(tables: Tables) -> list[Effect]:
        table = change(tables["targets"], over(target, "none"))
        means = table.mean()
        there = means.index.isin(tasks)
        if min(there.sum(), (~there).sum()) < 2:
            raise Nothing(f"{there.sum()} tasks of {where} and {(~there).sum()} others; each needs two")
        return [
            gain(f"{target}, on {where}", _of(tables["targets"], tasks), over(target, "none")),
            effect(
                "that, over other tasks", partial(two_groups, means[there].to_numpy(), means[~there].to_numpy()), SCORE
            ),
        ]

    return effects


def both_are_best(tables: Tables) -> list[Effect]:
    rows = tables["targets"]
    means = pd.DataFrame({arm: change(rows, {arm: 1.0}).mean() for arm in rows["arm"].unique()}).dropna()
    best = int((means.idxmax(axis=1) == "crop+color").sum())
    return [share_above("tasks on which both are best, over half", best, len(means))]


def on_every_host(awareness: str) -> Callable[[Tables], list[Effect]]:
    def effects(tables: Tables) -> list[Effect]:
        rows = tables["hosts"]
        having = rows.loc[rows["arm"] == awareness, "host"].unique()
        return [gain(f"on {host}", rows[rows["host"] == host], over(awareness, "plain")) for host in having]

    return effects


def on_tasks(what: str, tasks: frozenset[str]) -> Callable[[Tables], list[Effect]]:
    def effects(tables: Tables) -> list[Effect]:
        return [gain(what, _of(tables["hosts"], tasks), over("augself", "plain"), SCORE, ("host", "task"))]

    return effects


def more_colour(tables: Tables) -> list[Effect]:
    return [gain("bound", tables["information"], over("augself", "plain"), NATS, ("strength",))]


def neighbours(awareness: str) -> Callable[[Tables], list[Effect]]:
    def effects(tables: Tables) -> list[Effect]:
        rows = tables["neighbours"]
        precision, distance = (rows[rows["measure"] == name] for name in ("hue precision", "colour distance"))
        return [
            gain("neighbours of the same hue", precision, over(awareness, "plain"), SCORE, ("host",)),
            gain("colour distance", distance, over("plain", awareness), SCORE, ("host",)),
        ]

    return effects


# --- CASSLE ---


def told_right(tables: Tables) -> list[Effect]:
    rows = tables["told"]
    return [gain(f"right over {arm}", rows, over("right", arm), COSINE, ()) for arm in ("wrong", "resampled")]


def sensitive(tables: Tables) -> list[Effect]:
    rows = tables["layers"]
    return [
        gain(str(layer), rows[rows["layer"] == layer], over("cassle", "plain"), NATS, ("augmentation",))
        for layer in rows["layer"].unique()
    ]


def modes(tables: Tables) -> list[Effect]:
    rows = tables["modes"]
    others = [arm for arm in rows["arm"].unique() if arm != "concat"]
    return [gain(f"concatenation over {arm}", rows, over("concat", arm), as_good_as=True) for arm in others]


# --- Why do they transfer? ---


def _by_group(rows: pd.DataFrame, column: str, orders: Mapping[str, list[tuple[str, str]]]) -> list[Effect]:
    """For each group of changes, that the first arm of each pair has more than the second."""
    return [
        gain(f"{a} over {b}, {group}", rows[rows["group"] == group], over(a, b), COSINE, (column,))
        for group, pairs in orders.items()
        for a, b in pairs
    ]


def in_order(tables: Tables) -> list[Effect]:
    orders = {
        "spatial": [("spatial", "default"), ("default", "appearance"), ("appearance", "random")],
        "appearance": [("appearance", "default"), ("default", "spatial"), ("spatial", "random")],
    }
    return _by_group(tables["synthetic"], "transform", orders)


def carries_over(tables: Tables) -> list[Effect]:
    orders = {"spatial": [("spatial", "appearance")], "appearance": [("appearance", "spatial")]}
    return _by_group(tables["intrinsic"], "change", orders)


def trade_off(tables: Tables) -> list[Effect]:
    rows = tables["synthetic"]
    rows = rows[rows["arm"] != "random"]
    means = rows.groupby(["arm", "seed", "group"])["value"].mean().unstack("group").dropna()
    return [
        correlation("spatial against appearance", means["spatial"].to_numpy(), means["appearance"].to_numpy(), -1.0)
    ]


def pose_and_colour(tables: Tables) -> list[Effect]:
    rows = tables["families"]
    return [
        gain("appearance over spatial, pose", _of(rows, POSE_LATENTS), over("appearance", "spatial")),
        gain("spatial over appearance, colour", _of(rows, COLOUR_LATENTS), over("spatial", "appearance")),
    ]


def preferences(tables: Tables) -> list[Effect]:
    of_kind, of_pose = _of(tables["families"], RECOGNITION), _of(tables["families"], POSE)
    return [
        gain("default over spatial, recognition", of_kind, over("default", "spatial")),
        gain("spatial over appearance, recognition", of_kind, over("spatial", "appearance")),
        gain("appearance over default, pose", of_pose, over("appearance", "default")),
        gain("appearance over spatial, pose", of_pose, over("appearance", "spatial")),
    ]


def fused(tables: Tables) -> list[Effect]:
    rows = tables["families"]
    rows = rows[rows["arm"] != "random"]
    ranked = rows.assign(value=rows.groupby(["seed", "task"])["value"].rank())  # the highest has the highest number
    others = [arm for arm in rows["arm"].unique() if arm != "fused"]
    return [gain(f"rank above {arm}", ranked, over("fused", arm), RANK) for arm in others]
