"""The seeds' claims, each with the test that decides it, written down before its runs are looked at.

A claim reads tables of evidence, tidy rows by name (`EVIDENCE`), and comes down to `effects` and one verdict (`verdicts`). Scores
are those of the metric that a task is known by, higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from mastlib.changes import Nothing
from mastlib.errors import check_choice, refuse
from mastlib.ledger import effects
from mastlib.ledger.effects import Tables
from mastlib.ledger.verdicts import UNDECIDED, Effect, decide

#: Tables that claims read -> their columns. `arm` is what is compared; `value` of tasks the score.
EVIDENCE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # "all", or the augmentation that was left out
        "removal": ("arm", "seed", "task", "value"),
        # host and mast, with 5 and 15, mast also "sure" (no uncertainty); looc
        "masked": ("arm", "seed", "task", "value"),
        # of two augmentations, "color, crop"; "unique", "shared", "within", "between"
        "overlap": ("arm", "seed", "value"),
        # arm: a subspace, or "full space"; 0 is invariant
        "variation": ("arm", "seed", "augmentation", "value"),
        # "full space", and "only " each subspace
        "ablation": ("arm", "seed", "task", "value"),
        # host and mast; "clean": mast that was trained without badges
        "cues": ("arm", "seed", "cue", "badge", "value"),
        # ratios to the host; of looc to mast
        "cost": ("arm", "measure", "value", "low", "high"),
        # augmentation: Spearman's of its strength and its subspace's uncertainty
        "strength": ("arm", "seed", "value"),
        # "neighbours", "probe", "loss": Spearman's with uncertainty
        "difficulty": ("arm", "seed", "augmentation", "value"),
        # AugSelf's: "none", "crop", "color", "crop+color"
        "targets": ("arm", "seed", "task", "value"),
        # "plain", "augself", "cassle"
        "hosts": ("arm", "seed", "host", "task", "value"),
        # "hue precision", higher is better; "colour distance", lower
        "neighbours": ("arm", "seed", "host", "measure", "value"),
        # "plain", "augself": nats, by strength of the jitter
        "information": ("arm", "seed", "strength", "value"),
        # "right", "wrong", "resampled": mean cosine of two views
        "told": ("arm", "seed", "value"),
        # "plain", "cassle": InfoNCE over its floor
        "layers": ("arm", "seed", "layer", "augmentation", "value"),
        # CASSLE's modes of conditioning
        "modes": ("arm", "seed", "task", "value"),
        # default, spatial, appearance, random: cosine
        "synthetic": ("arm", "seed", "group", "transform", "value"),
        # the same, by what truly changed
        "intrinsic": ("arm", "seed", "group", "change", "value"),
        # the same with scores; "fused", and "wide" of the same width
        "families": ("arm", "seed", "task", "value"),
    }
)


@dataclass(frozen=True)
class Claim:
    """What a seed says, and how it is decided: `test` in words, `effects` of the tables `needs`."""

    name: str
    source: str
    says: str
    test: str
    needs: tuple[str, ...]
    effects: Callable[[Tables], list[Effect]]


COLUMNS = ["claim", "source", "says", "verdict", "what", "effect", "low", "high", "n", "level", "unit", "test"]
NOT_MEASURED = "not measured"


def ledger(tables: Tables) -> pd.DataFrame:
    """A row for each claim: COLUMNS, with the effect that decides it (`what`), its interval at the `level` that decides, its unit.

    Where a table that it needs, or what it needs of one, is not there, the verdict is "not measured"; of one seed "undecided".
    Raises InputError for a table that is not in EVIDENCE, lacks a column, or has a row twice.
    """
    for name, table in tables.items():
        columns = EVIDENCE[check_choice("table", name, EVIDENCE)]
        if not {*columns} <= {*table}:
            raise refuse(name, list(table), f"a table with columns {', '.join(columns)}")
    return pd.DataFrame([_row(claim, tables) for claim in CLAIMS], columns=COLUMNS)


def answers(tables: Tables) -> pd.DataFrame:
    """The rows of the `ledger` whose tables are all there: what one chapter has to say."""
    return ledger(tables)[[set(claim.needs) <= set(tables) for claim in CLAIMS]].reset_index(drop=True)


def _row(claim: Claim, tables: Tables) -> tuple[object, ...]:
    head = claim.name, claim.source, claim.says
    missing = [name for name in claim.needs if name not in tables]
    try:
        if missing:
            raise Nothing(f"no table {missing[0]}")
        verdict, one, found, level = decide(claim.effects(tables))
        seeds = [tables[name]["seed"].nunique() for name in claim.needs if "seed" in tables[name]]
        if min(seeds, default=2) < 2:
            verdict = UNDECIDED  # intervals over tasks alone do not say what another training would give
    except Nothing as why:
        return (*head, NOT_MEASURED, str(why), math.nan, math.nan, math.nan, 0, math.nan, "", claim.test)
    return (*head, verdict, one.what, *found, level, one.unit, claim.test)


_MAST, _AUGSELF, _CASSLE, _WHY = "MAST", "AugSelf", "CASSLE", "Why do self-supervised models transfer?"

CLAIMS = (
    Claim("M1", _MAST, "Removing the crop from MoCo hurts every task.",
          "On each task the score with all five augmentations is above that without the crop.",
          ("removal",), effects.crop_hurts),
    Claim("M2", _MAST, "The other augmentations help some tasks more than others.",
          "Augmentation left out x task has a deviation above 0, against seed x augmentation x task.",
          ("removal",), effects.others_differ),
    Claim("M3", _MAST, "Colour jitter hurts a fine-grained, colour-dependent task and helps others.",
          f"Without jitter {effects.FINE_GRAINED} is higher, and the tasks of recognition are lower.",
          ("removal",), effects.jitter_hurts),
    Claim("M4", _MAST, "MAST transfers better than its host.",
          "Mean change of the score over VICReg with the same 15 augmentations and schedule is above 0.",
          ("masked",), effects.beats_host),
    Claim("M5", _MAST, "Fifteen augmentations help MAST over five, and help it more than its host.",
          "MAST's mean change is above 0, and above its host's.",
          ("masked",), effects.fifteen_help),
    Claim("M6", _MAST, "Uncertainty improves MAST, most with strong augmentations.",
          "Mean change by uncertainty is above 0 with 15 augmentations, and above that with 5.",
          ("masked",), effects.uncertainty_helps),
    Claim("M7", _MAST, "Subspaces have unique and shared dimensions; related augmentations share more.",
          "Both shares are above 0; pairs within a group, and jitter with grayscale, overlap more than others.",
          ("overlap",), effects.shared_and_unique),
    Claim("M8", _MAST, "A subspace is most invariant to its own augmentation, and more so than the full space.",
          "Its variation under its own, relative to the full space's, is below 1 and below that under the others.",
          ("variation",), effects.own_invariance),
    Claim("M9", _MAST, "Without masks features transfer at least as well as any one subspace.",
          "Over each subspace by itself the full space loses no point.",
          ("ablation",), effects.whole_is_best),
    Claim("M10", _MAST, "MAST resists feature suppression.",
          "A larger badge costs the object no point more than without training on badges, and less than in the host.",
          ("cues",), effects.cues_survive),
    Claim("M11", _MAST, "MAST is as good as LooC at lower cost.",
          "It loses no point to LooC, whose parameters, time and memory are above its own.",
          ("masked", "cost"), effects.rivals_looc),
    Claim("M12", _MAST, "Uncertainty rises with the strength of augmentations.",
          "Spearman's of strength and its subspace's uncertainty is above 0 for each augmentation.",
          ("strength",), effects.rises),
    Claim("M13", _MAST, "Uncertainty reflects difficulty.",
          "Its correlations with errors of neighbours and probe, and with the loss over training, are above 0.",
          ("difficulty",), effects.difficulty),
    Claim("M14", _MAST, "MAST costs about what its host does.",
          f"Time and memory of a step are below {effects.DEAR} of the host's.",
          ("cost",), effects.cheap("mast")),
    Claim("A1", _AUGSELF, "Predicting colour helps tasks of colour most.",
          "Its mean change is above 0 on tasks of colour, and above that on others.",
          ("targets",), effects.target_helps("color", effects.COLOUR, "colour")),
    Claim("A2", _AUGSELF, "Predicting the crop helps where geometry counts.",
          "The same of the crop and tasks of place and size.",
          ("targets",), effects.target_helps("crop", effects.PLACE, "place")),
    Claim("A3", _AUGSELF, "Predicting both is best on most tasks.",
          "It has the highest mean score on more than half of the tasks.",
          ("targets",), effects.both_are_best),
    Claim("A4", _AUGSELF, "AugSelf helps whatever it is added to.",
          "On each host its mean change is above 0.",
          ("hosts",), effects.on_every_host("augself")),
    Claim("A5", _AUGSELF, "AugSelf helps few-shot classification.",
          "Its mean change over hosts and few-shot tasks is above 0.",
          ("hosts",), effects.on_tasks("few-shot", effects.FEW_SHOT_TASKS)),
    Claim("A6", _AUGSELF, "AugSelf lowers the error of localisation.",
          "Its mean change of the overlap with the true box, over hosts, is above 0.",
          ("hosts",), effects.on_tasks("localisation", frozenset({"localisation"}))),
    Claim("A7", _AUGSELF, "AugSelf keeps more information on colours.",
          "Over strengths of the jitter, its bound on the information with the colour histogram is higher.",
          ("information",), effects.more_colour),
    Claim("A8", _AUGSELF, "Retrieval with AugSelf respects colour.",
          "Neighbours share the hue more often, and their colours are closer.",
          ("neighbours",), effects.neighbours("augself")),
    Claim("A9", _AUGSELF, "AugSelf costs next to nothing.",
          f"Time and memory of a step are below {effects.DEAR} of the host's.",
          ("cost",), effects.cheap("augself")),
    Claim("C1", _CASSLE, "CASSLE transfers better than what it is added to.",
          "On each host its mean change is above 0.",
          ("hosts",), effects.on_every_host("cassle")),
    Claim("C2", _CASSLE, "The projector uses what it is told of augmentations.",
          "Two views are more alike when told right than when told another image's, or newly drawn parameters.",
          ("told",), effects.told_right),
    Claim("C3", _CASSLE, "Features are more sensitive to augmentations than the host's, layer by layer.",
          "At each layer, InfoNCE between clean and changed images, over its floor, is higher.",
          ("layers",), effects.sensitive),
    Claim("C4", _CASSLE, "Of the modes of conditioning, concatenation is as good as any.",
          "Over each other mode it loses no point.",
          ("modes",), effects.modes),
    Claim("C5", _CASSLE, "Neighbours share more of what augmentations vary.",
          "They share the hue more often, and their colours are closer.",
          ("neighbours",), effects.neighbours("cassle")),
    Claim("I1", _WHY,
          "Spatial is most invariant to spatial changes, Appearance to those of appearance, Default is between, Random least.",
          "Mean cosines are in this order, pair by pair of neighbours.",
          ("synthetic",), effects.in_order),
    Claim("I2", _WHY, "More of one invariance is less of the other.",
          "Over trained models, the two mean cosines are negatively correlated.",
          ("synthetic",), effects.trade_off),
    Claim("I3", _WHY, "Learned invariances carry over to what truly changes.",
          "Spatial is above Appearance where viewpoint changes, and below it where light and focus do.",
          ("intrinsic",), effects.carries_over),
    Claim("I4", _WHY, "Appearance predicts pose better, Spatial colour.",
          "On position, size and rotation Appearance is above Spatial, on hues below.",
          ("families",), effects.pose_and_colour),
    Claim("I5", _WHY, "Recognition prefers Default, then Spatial; tasks of pose prefer Appearance.",
          "Default is above Spatial, and that above Appearance, on recognition; Appearance above both on pose.",
          ("families",), effects.preferences),
    Claim("I6", _WHY, "Fused models are the most consistent, beyond a model of their width.",
          "Their rank is above that of each model, and of one model of the same width.",
          ("families",), effects.fused),
)  # fmt: skip
