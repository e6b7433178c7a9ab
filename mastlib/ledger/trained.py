"""Tables of evidence on MAST's training (`claims.EVIDENCE`), from the arms of `experiments.mast`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlib import cost as costing
from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import pair_spec
from mastlib.experiments import TARGETS, Arms, counted
from mastlib.ledger.claims import EVIDENCE
from mastlib.study import Study


def masked(study: Study, few: str, many: str) -> pd.DataFrame:
    """Scores of host, MAST and MAST without uncertainty ("sure") with both sets of augmentations, and of LooC with the smaller one.

    The smaller set is "5" and the larger "15", however many they hold. Raises InputError as `experiments.mast`.
    """
    a, b = counted(few, many)
    called = {f"LooC {a}": "looc"}
    for size, count in (("5", a), ("15", b)):
        called |= {f"VICReg {count}": f"host {size}", f"MAST {count}": f"mast {size}"}
        called |= {f"MAST {count}, sure": f"sure {size}"}
    return _called("masked", study.rows, called)


def cues(found: pd.DataFrame, few: str, many: str) -> pd.DataFrame:
    """Both cues as host and MAST tell them that were trained on badges of each size, and MAST that never saw one ("clean").

    found: rows of `suppressed.cues`. Raises InputError as `experiments.mast`.
    """
    a, _ = counted(few, many)
    called = {f"MAST {a}": "clean"}
    for badge in found["badge"].unique():
        called |= {f"VICReg {a}, badge {badge:g}": "host", f"MAST {a}, badge {badge:g}": "mast"}
    return _called("cues", found, called)


def priced(tier: str, few: str, many: str, arms: Arms, overrides: Mapping[str, Any], rounds: int = 8) -> pd.DataFrame:
    """What arms of `experiments.mast`, and AugSelf on the host of its paper, cost over others: rows of `cost.compare`.

    "mast" and "mast, few" over their hosts, "looc" over MAST and "looc, host" over its host, "augself" over its host.
    AugSelf has the targets that are in `few`; without any it is not there.
    """
    a, b = counted(few, many)
    specs = dict(arms)
    pairs = {
        "mast": (f"MAST {b}", f"VICReg {b}"),
        "mast, few": (f"MAST {a}", f"VICReg {a}"),
        "looc": (f"LooC {a}", f"MAST {a}"),
        "looc, host": (f"LooC {a}", f"MoCo {a}"),
    }
    host = pair_spec(tier, "simsiam", "none", augmentations=few, **overrides)
    if {*TARGETS} & {*get_pipeline(few, host.image_size, host.without).names}:
        pairs["augself"] = f"SimSiam {a} + AugSelf", f"SimSiam {a}"
        told = pair_spec(tier, "simsiam", "augself", augmentations=few, **overrides)
        specs |= dict(zip(pairs["augself"], (told, host), strict=True))
    wanted = {name for pair in pairs.values() for name in pair}
    return costing.costs({name: spec for name, spec in specs.items() if name in wanted}, pairs, rounds)


def cost(found: pd.DataFrame) -> pd.DataFrame:
    """Of `priced`: MAST with many augmentations and AugSelf over their hosts, LooC over MAST."""
    return _called("cost", found, {name: name for name in ("mast", "augself", "looc")})


def _called(table: str, rows: pd.DataFrame, called: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the arms `called`, by the names that `table` has for them, and its columns alone."""
    mine = rows[rows["arm"].isin(list(called))]
    return mine.assign(arm=mine["arm"].map(called))[[*EVIDENCE[table]]].reset_index(drop=True)
