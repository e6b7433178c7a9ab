"""What the chapters train: each one's arms, from its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import pair_spec
from mastlib.errors import check_choice, refuse
from mastlib.methods import AWARENESS, HOSTS, REFUSED
from mastlib.spec import RunSpec
from mastlib.tiers import tier_spec

Arms = dict[str, RunSpec]
ALL, WITHOUT = "all", "without "
FIVE, TWICE, FREE = "MAST, five", "jitter twice", "jitter twice, likeness free"
FAMILIES = ("default", "spatial", "appearance")
TWINS = tuple(f"{FAMILIES[0]}, twin {k}" for k in range(1, len(FAMILIES)))
TWIN = 1000  # from a seed to its twin's
#: What chapter 05 adds to a host -> the hosts that it is tried on (none: all that it goes with), and its settings.
RIVALS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = MappingProxyType(
    {
        "none": ((), {}), "augself": ((), {}), "cassle": ((), {}),
        "mast": (("vicreg",), {"uncertainty": "reweight"}), "looc": (("moco",), {}),
    }
)  # fmt: skip
TARGETS = "crop", "color"  # of AugSelf, whose usual form has both
CONCAT = "concat"  # CASSLE's usual mode of conditioning
COUNTED_AT = 32  # pixels; how many augmentations a preset has does not depend on it


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


def counted(few: str, many: str) -> tuple[int, int]:
    """How many augmentations two presets have. Raises InputError unless the second has more."""
    first, second = (len(get_pipeline(name, COUNTED_AT).names) for name in (few, many))
    if not first < second:
        raise refuse("many", many, f"a preset of more augmentations than the {first} of few = {few!r}")
    return first, second


def mast(tier: str, few: str, many: str, badges: Sequence[float], overrides: Mapping[str, Any]) -> Arms:
    """MAST and its host with few and many augmentations, and what tells MAST's parts apart.

    "sure": MAST whose pairs all weigh the same. The host on MAST's pairs is a control without masks; another has no operation that
    takes colour away. LooC stands beside its own host. With `badges` host and MAST are trained on views with two cues.
    Raises InputError for presets in another order and for fewer than two sizes of badges.
    """
    a, b = counted(few, many)
    if len(badges) < 2 or sorted({0, *badges}) != [0, *badges]:
        raise refuse("badges", list(badges), "two sizes or more, above 0 and in rising order")
    arms: Arms = {}
    for count, preset in ((a, few), (b, many)):
        shared = {"augmentations": preset, **overrides}
        arms[f"VICReg {count}"] = tier_spec(tier, **shared)
        arms[f"MAST {count}"] = pair_spec(tier, "vicreg", "mast", **{"uncertainty": "reweight", **shared})
        arms[f"MAST {count}, sure"] = arms[f"MAST {count}"].replace(uncertainty="none")
    host, masked = arms[f"VICReg {a}"], arms[f"MAST {a}"]
    there = get_pipeline(few, host.image_size, host.without).names
    arms[f"VICReg {a}, MAST's pairs"] = host.replace(pairing=masked.pairing)
    arms[f"VICReg {a}, no colour ops"] = host.replace(
        without=[*host.without, *(name for name in ("color", "grayscale") if name in there)]
    )
    arms[f"MoCo {a}"] = pair_spec(tier, "moco", "none", augmentations=few, **overrides)
    arms[f"LooC {a}"] = pair_spec(tier, "moco", "looc", augmentations=few, **overrides)
    for name in (f"VICReg {a}", f"MAST {a}"):
        arms |= {f"{name}, badge {badge:g}": arms[name].replace(badge=badge) for badge in badges}
    return arms


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


def named(host: str, awareness: str = "none", form: str = "") -> str:
    """The name of an arm: its host, what was added to it, and in which form, if not the usual one."""
    parts = [HOSTS[host]] + ([AWARENESS[awareness]] if awareness != "none" else [])
    return " + ".join(path.rpartition(".")[2] for path in parts) + (f", {form}" if form else "")


def rivals(
    tier: str,
    hosts: Sequence[str],
    augmentations: str,
    targets_of: str,
    modes_of: str,
    modes: Sequence[str],
    jitter: Sequence[str],
    overrides: Mapping[str, Any],
) -> Arms:
    """Every host plain, with AugSelf and with CASSLE, as far as they go together; MAST on VICReg, LooC on MoCo (`RIVALS`).

    The host `targets_of` also with each of AugSelf's targets alone, if views differ in both, and, plain and with AugSelf, with the
    presets `jitter` in place of `augmentations`; `modes_of` with CASSLE's other `modes` of conditioning. Both are there even if
    `hosts` lacks them.
    """
    shared = {"augmentations": augmentations, **overrides}
    arms = {}
    for host in dict.fromkeys(check_choice("host", one, HOSTS) for one in (*hosts, targets_of, modes_of)):
        for awareness, (only, settings) in RIVALS.items():
            if (host, awareness) not in REFUSED and host in (only or HOSTS):
                arms[named(host, awareness)] = pair_spec(tier, host, awareness, **{**settings, **shared})
    usual = arms[named(targets_of, "augself")]
    for target in TARGETS if usual.augself_tasks == TARGETS else ():
        alone = {"augself_tasks": (target,), "augself_weights": (1.0,)}
        arms[named(targets_of, "augself", target)] = pair_spec(tier, targets_of, "augself", **{**alone, **shared})
    for preset in jitter:
        if preset != augmentations:
            for awareness in ("none", "augself"):
                spec = pair_spec(tier, targets_of, awareness, **{**shared, "augmentations": preset})
                arms[named(targets_of, awareness, preset)] = spec
    for mode in modes:
        if mode != CONCAT:
            arms[named(modes_of, "cassle", mode)] = pair_spec(tier, modes_of, "cassle", condition_mode=mode, **shared)
    return arms


def additions(arms: Arms) -> dict[str, tuple[str, str]]:
    """Each arm that is a host with an awareness in its usual form -> it and its host, which it is compared with."""
    return {
        arm: (arm, named(spec.host))
        for arm, spec in arms.items()
        if spec.awareness != "none" and arm == named(spec.host, spec.awareness)
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
