"""Tables of evidence (`claims.EVIDENCE`) from what chapter 05 measured of hosts and of what was added to them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mastlib.comparison import PIXELS, PROJECTOR
from mastlib.experiments import CONCAT, RIVALS, TARGETS, named
from mastlib.study import RANDOM, Study

#: What is compared on every host: as evidence calls it -> as `methods.AWARENESS` does.
ADDED = {"plain": "none", "augself": "augself", "cassle": "cassle"}


def targets(study: Study, host: str) -> pd.DataFrame:
    """Scores of `host` with AugSelf's targets: "none", "crop", "color", "crop+color", of a study of `experiments.rivals`."""
    arms = [named(host, "augself"), *(named(host, "augself", one) for one in TARGETS)]
    told = {arm: "+".join(run.spec.augself_tasks) for arm in arms for run in study.of(arm)}
    return _arms(study.rows, {named(host): "none"} | told)


def modes(study: Study, host: str) -> pd.DataFrame:
    """Scores of `host` with CASSLE by its mode of conditioning: "concat", which is the usual one, and the others."""
    runs = [run.spec for run in study.runs.values() if (run.spec.host, run.spec.awareness) == (host, "cassle")]
    names = {named(host, "cassle", spec.condition_mode): spec.condition_mode for spec in runs}
    return _arms(study.rows, names | {named(host, "cassle"): CONCAT})


def hosts(study: Study) -> pd.DataFrame:
    """Scores of every host "plain", with "augself" and with "cassle"."""
    return by_host(study, study.rows, ADDED)


def neighbours(study: Study, found: pd.DataFrame) -> pd.DataFrame:
    """Colours of neighbours (`comparison.colours_of_neighbours`) of the same."""
    return by_host(study, found, ADDED)


def information(study: Study, found: pd.DataFrame) -> pd.DataFrame:
    """Bounds (`comparison.colour_information`) of a host "plain" and with "augself", by the strength of its jitter."""
    kinds = {arm: run.spec.awareness for (arm, _), run in study.runs.items()}
    mine = found[found["arm"] != RANDOM]
    return mine.assign(arm=mine["arm"].map(kinds).replace("none", "plain"))


def told(found: pd.DataFrame, host: str) -> pd.DataFrame:
    """Cosines (`comparison.told_right_or_wrong`) of `host` with CASSLE in its usual form, by what its projector is told."""
    mine = found[(found["arm"] == named(host, "cassle")) & found["told"].isin(("right", "wrong", "resampled"))]
    return mine.assign(arm=mine["told"])


def layers(found: pd.DataFrame, host: str) -> pd.DataFrame:
    """Sensitivity (`comparison.by_layer`) of the layers of `host`'s features, "plain" and with "cassle", at training's strength.

    Pixels, which are no features, and what the projector makes of them, which does not transfer, are left out.
    """
    mine = found[(found["strength"] == 1) & ~found["layer"].isin((PIXELS, PROJECTOR))]
    return _arms(mine, {named(host): "plain", named(host, "cassle"): "cassle"})


def by_host(study: Study, rows: pd.DataFrame, kinds: Mapping[str, str] | None = None) -> pd.DataFrame:
    """`rows` of every host in the forms `kinds`, evidence's name -> awareness (None: all), with a column host."""
    kinds = kinds or {"plain": "none"} | {one: one for one in RIVALS if one != "none"}
    of_study = dict.fromkeys(run.spec.host for run in study.runs.values())
    parts = [
        _arms(rows, {named(host, one): name for name, one in kinds.items()}).assign(host=host) for host in of_study
    ]
    return pd.concat(parts, ignore_index=True)


def _arms(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the arms `names`, under the names that evidence has for them."""
    mine = rows[rows["arm"].isin(names)]
    return mine.assign(arm=mine["arm"].map(names))
