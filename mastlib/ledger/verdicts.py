"""What a claim comes down to: effects with intervals, in the claim's direction, and one rule that turns them into a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from mastlib.changes import Nothing, change
from mastlib.stats import Interval, crossed, interval

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True)
class Effect:
    """How much there is of `what` a claim says: `at(level)` its interval, in `unit`.

    The claim holds above `bar`, and an effect below `least` would not matter to anyone: "more" has bar 0 and least above it, "as
    good as" a bar below 0 and least 0.
    """

    what: str
    at: Callable[[float], Interval]
    unit: str
    bar: float
    least: float


class Decision(NamedTuple):
    """The verdict on a claim, the effect that decides it, and its interval at the level at which it decides."""

    verdict: str
    effect: Effect
    found: Interval
    level: float


class Unit(NamedTuple):
    """A unit that effects are in, and the smallest one that would matter; fixed before any run was looked at."""

    name: str
    least: float


SCORE = Unit("score", 0.01)  # of accuracies, recalls, R^2, IoU: one point
LOGRATIO = Unit("log ratio", math.log(1.05))
CORRELATION = Unit("correlation", 0.1)
COSINE = Unit("cosine", 0.02)
NATS = Unit("nats", 0.02)
SHARE = Unit("share", 0.05)
RANK = Unit("ranks", 0.25)
UNITS = {unit.name: unit.least for unit in (SCORE, LOGRATIO, CORRELATION, COSINE, NATS, SHARE, RANK)}


def effect(what: str, at: Callable[[float], Interval], unit: Unit, *, as_good_as: bool = False) -> Effect:
    """The Effect of more than nothing, or with `as_good_as` of no less than a loss that would not matter."""
    bar, least = (-unit.least, 0.0) if as_good_as else (0.0, unit.least)
    return Effect(what, at, unit.name, bar, least)


def decide(effects: Sequence[Effect], level: float = 0.95) -> Decision:
    """The verdict on a claim that says all of `effects`, and the one that decides it.

    Reproduced where the interval of each is above its bar, which is wrong no more often than one interval is, however many there
    are (an intersection-union test, Berger 1982). Not reproduced where the interval of one, at the level 1 - (1 - level) / m for m
    effects, is below what would matter: of many, some are low by chance. Else undecided. What decides is the effect that is lowest.
    Raises Nothing for no effect.
    """
    if not effects:
        raise Nothing("no effect was measured")
    wider = 1 - (1 - level) / len(effects)
    found = [(one, one.at(level)) for one in effects]
    refuted = [(one, its) for one in effects if (its := one.at(wider)).high < one.least]
    reproduced = all(its.low > one.bar for one, its in found)
    verdict = REPRODUCED if reproduced else NOT_REPRODUCED if refuted else UNDECIDED

    def height(pair: tuple[Effect, Interval]) -> float:
        """How far the lower bound is above the bar, in smallest effects that matter; what has no bound is lowest of all."""
        one, its = pair
        above = (its.low - one.bar) / (one.least - one.bar or 1.0)
        return -math.inf if math.isnan(above) else above

    if verdict == NOT_REPRODUCED:
        return Decision(verdict, *min(refuted, key=height), wider)
    return Decision(verdict, *min(found, key=height), level)


def gain(
    what: str,
    rows: pd.DataFrame,
    weights: Mapping[str, float],
    unit: Unit = SCORE,
    across: Sequence[str] = ("task",),
    *,
    as_good_as: bool = False,
) -> Effect:
    """The mean `change`, as of all seeds and all of `across` like these (`stats.crossed`)."""
    return effect(what, partial(crossed, change(rows, weights, across)), unit, as_good_as=as_good_as)


def gain_of_each(rows: pd.DataFrame, weights: Mapping[str, float], unit: Unit = SCORE) -> list[Effect]:
    """The `change` of each task by itself, over seeds."""
    table = change(rows, weights)
    return [effect(str(task), partial(interval, table[task]), unit) for task in table]


def gain_of_arms(rows: pd.DataFrame, unit: Unit) -> list[Effect]:
    """The value of each arm by itself, over seeds."""
    return [gain(arm, rows, {arm: 1.0}, unit, ()) for arm in rows["arm"].unique()]


def share_above(what: str, hits: int, n: int, half: float = 0.5) -> Effect:
    """The share of `hits` among `n` less `half`, with Clopper and Pearson's interval."""

    def at(level: float) -> Interval:
        found = stats.binomtest(hits, n).proportion_ci(level)
        return Interval(hits / n - half, float(found.low) - half, float(found.high) - half, n)

    return effect(what, at, SHARE)


def correlation(what: str, first: np.ndarray, second: np.ndarray, sign: float = 1.0) -> Effect:
    """Pearson's r of two columns, times `sign`, with Fisher's interval. Raises Nothing for fewer than four pairs."""
    if len(first) < 4:
        raise Nothing(f"{len(first)} pairs; a correlation needs four")
    found = stats.pearsonr(first, sign * second)

    def at(level: float) -> Interval:
        bounds = found.confidence_interval(level)
        return Interval(float(found.statistic), float(bounds.low), float(bounds.high), len(first))

    return effect(what, at, CORRELATION)
