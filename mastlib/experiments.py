"""What the chapters train: each one's arms, from its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import pair_spec
from mastlib.spec import RunSpec
from mastlib.tiers import tier_spec

Arms = dict[str, RunSpec]
ALL, WITHOUT = "all", "without "
FIVE, TWICE, FREE = "MAST, five", "jitter twice", "jitter twice, likeness free"
FAMILIES = ("default", "spatial", "appearance")
TWINS = tuple(f"{FAMILIES[0]}, twin {k}" for k in range(1, len(FAMILIES)))
TWIN = 1000  # from a seed to its twin's


def compared(arms: Arms) -> pd.DataFrame:
    """A row for each arm: the settings in which they differ."""
    table = pd.DataFrame({arm: spec.to_dict() for arm, spec in arms.items()}).T
    return table.loc[:, [table[name].astype(str).nunique() > 1 for name in table]]


def motivation(tier: str, host: str, augmentations: str, overrides: Mapping[str, Any]) -> Arms:
    """The host with all augmentations of the preset, and without each of them in turn."""
    everything = pair_spec(tier, host, "none", augmentations=augmentations, **overrides)
    names = get_pipeline(augmentations, everything.image_size, everything.without).names
    return {ALL: everything} | {
        f"{WITHOUT}{name}": everything.replace(without=[*everything.without, name]) for name in names
    }


def mast(tier: str, augmentations: str, overrides: Mapping[str, Any]) -> Arms:
    """MAST, its host, the host on MAST's pairs (a control without masks), and the host without what takes colour away."""
    host = tier_spec(tier, augmentations=augmentations, **overrides)
    masked = pair_spec(tier, "vicreg", "mast", augmentations=augmentations, **overrides)
    return {
        "VICReg": host,
        "VICReg, no colour ops": host.replace(without=["color", "grayscale"]),
        "VICReg, MAST's pairs": host.replace(pairing=masked.pairing),
        "MAST": masked,
    }


def masks(tier: str, augmentations: str, overrides: Mapping[str, Any]) -> Arms:
    """MAST as its paper has it; with five augmentations; and with the jitter twice, with and without a penalty on like masks."""

    def masked(preset: str, **changes: Any) -> RunSpec:
        return pair_spec(
            tier, "vicreg", "mast", **{"augmentations": preset, "uncertainty": "reweight", **changes, **overrides}
        )

    return {
        "MAST": masked(augmentations),
        FIVE: masked("standard5"),
        TWICE: masked("jitter_twice"),
        FREE: masked("jitter_twice", mask_diversity=0.0),
    }


def uncertainty(tier: str, augmentations: str, overrides: Mapping[str, Any]) -> Arms:
    """MAST as its paper has it, alone: what it is unsure of is compared with nothing but chance."""
    return {"MAST": masks(tier, augmentations, overrides)["MAST"]}


def rivals(tier: str, augmentations: str, overrides: Mapping[str, Any]) -> Arms:
    """AugSelf and CASSLE, each beside a host of its paper."""
    shared = {"augmentations": augmentations, **overrides}
    return {
        "SimSiam": pair_spec(tier, "simsiam", "none", **shared),
        "SimSiam + AugSelf": pair_spec(tier, "simsiam", "augself", **shared),
        "MoCo": pair_spec(tier, "moco", "none", **shared),
        "MoCo + CASSLE": pair_spec(tier, "moco", "cassle", **shared),
    }


def families(tier: str, host: str, overrides: Mapping[str, Any]) -> Arms:
    """One host with the three sets of augmentations of ssl-invariances, and labels instead with the first of them.

    The first set has twins, which differ in nothing but the seed: as many as there are other sets.
    """
    arms = {name: pair_spec(tier, host, "none", augmentations=name, **overrides) for name in FAMILIES}
    labelled = tier_spec(tier, host="supervised", augmentations=FAMILIES[0], **overrides)
    first = arms[FAMILIES[0]]
    twins = {twin: first.replace(seed=first.seed + TWIN * k) for k, twin in enumerate(TWINS, 1)}
    return arms | {"supervised": labelled} | twins


#: Arms of which pages show more than tables can hold: the backbone of their first seed is shipped.
SHOWN: tuple[str, ...] = ()

#: The arms of each chapter that compares runs; each is trained with every one of the chapter's `seeds`, which are added to the
#: spec's own. Chapter 11 compares a
#: run with itself after kills, both trained by processes of one machine, so it is no part of a grid.
EXPERIMENTS: Mapping[str, Callable[..., Arms]] = MappingProxyType(
    {
        "03_motivation_ablation": motivation,
        "04_mast_training": mast,
        "05_augself_cassle": rivals,
        "06_mask_analysis": masks,
        "07_uncertainty": uncertainty,
        "08_why_transfer": families,
    }
)
