"""What is chosen here: what each of MAST's switches serves of its paper, and which of paper and code is followed elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd

from mastlib.catalogue import mast_switches


@dataclass(frozen=True)
class Statement:
    """What MAST's text at hand `says`, in our words, and `where`; `host_settings`: fields of RunSpec that follow it too."""

    says: str
    where: str
    host_settings: tuple[str, ...] = ()


_TEXT = "abstract and introduction"
_DIGEST = "a public digest of sections 4 and 5"

#: By a short name.
STATEMENTS: Mapping[str, Statement] = MappingProxyType(
    {
        "masks": Statement(
            "One feature space holds a subspace for each augmentation; a learnable mask picks its dimensions.", _TEXT
        ),
        "invariance": Statement("In its subspace, and there only, features are asked to be invariant to the augmentation.", _TEXT),
        "overlap": Statement("Subspaces have dimensions of their own and dimensions that they share.", _TEXT),
        "joint": Statement(
            "All subspaces are trained jointly, so that learning one invariance does not suppress what another needs.", _TEXT
        ),
        "uncertainty": Statement(
            "Uncertainty is modelled in the representation; ambiguous samples, which strong augmentations make, count less in "
            "each subspace.", _TEXT,
        ),
        "five": Statement("Five standard augmentations: colour jitter, blur, flip, greyscale, resized crop.", _TEXT),
        "fifteen": Statement("Ten more, fifteen in all, to study how the method scales; they are not named.", _TEXT),
        "removal": Statement(
            "Taking single augmentations from MoCo moves tasks in different directions; only the crop serves all.",
            "caption of figure 1", ("host", "without"),
        ),
        "cheap": Statement(
            "Efficient, where LooC trains and joins a head for each augmentation left out, which leaves room for few.", _TEXT
        ),
        "vicreg": Statement(
            "Optimised as VICReg is.", _DIGEST,
            ("host", "optimizer", "lr", "weight_decay", "warmup_epochs", "batch_size", "invariance_weight", "variance_weight",
             "covariance_weight", "projector"),
        ),
        "transfer": Statement("For transfer the masks are dropped and the whole feature is used.", _TEXT),
    }
)  # fmt: skip

#: Switch -> the statements that it gives a form to; each choice that a statement needs is one of these or fixed in the code.
SERVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "augmentations": ("five", "fifteen"), "pairing": ("invariance", "cheap"), "crop_redrawn": ("invariance", "removal"),
        "isolated": ("invariance",), "mask_type": ("masks", "overlap"), "mask_on": ("masks",), "mask_power": ("invariance",),
        "mask_init": ("masks", "overlap"), "mask_lr": ("masks",), "mask_sparsity": ("masks",),
        "mask_choice": ("masks", "invariance"), "mask_margin": ("masks", "invariance"), "mask_diversity": ("overlap",),
        "outside_weight": ("invariance",), "outside_std": ("invariance",), "scale_fix": ("masks",),
        "subspace_loss": ("joint", "vicreg"), "full_weight": ("joint",), "uncertainty": ("uncertainty",),
    }
)  # fmt: skip


def switches() -> pd.DataFrame:
    """`catalogue.mast_switches` with `serves`: the statements' names that a switch gives a form to."""
    frame = mast_switches()
    return frame.assign(serves=[", ".join(SERVES[name]) for name in frame["switch"]])


def statements() -> pd.DataFrame:
    """A row for each statement: name, what it says, where, and the `switches` and `host settings` that serve it."""
    rows = []
    for name, one in STATEMENTS.items():
        serving = [switch for switch, served in SERVES.items() if name in served]
        row = {"statement": name, "says": one.says, "where": one.where, "switches": ", ".join(serving)}
        rows.append(row | {"host settings": ", ".join(one.host_settings)})
    return pd.DataFrame(rows)


PAPER, CODE, BOTH, OWN = "the paper", "the code", "both", "neither"


@dataclass(frozen=True)
class Departure:
    """A place where a `paper` and published `code` differ, or leave open what must be decided: what is done `here`, and `at` which
    object of this package. `follows`: PAPER, CODE, BOTH (they say the same in other words) or OWN."""

    method: str
    subject: str
    paper: str
    code: str
    here: str
    follows: str
    at: str


_OPEN, _NONE = "no word in the text at hand", "none of the authors' at hand"

DEPARTURES: Sequence[Departure] = (
    Departure(
        "VICReg", "invariance", "sums squares over dimensions", "takes their mean", "mean over images and dimensions", CODE,
        "losses.invariance",
    ),
    Departure(
        "VICReg", "variance of the two views", "adds the two hinges", "takes their mean; adds the two covariances",
        "as the code, with weights 25, 25, 1", CODE, "losses.vicreg",
    ),
    Departure(
        "VICReg", "augmentations", "both views alike, solarization with probability .1", "views unlike: blur 1 and .1, "
        "solarization 0 and .2, bicubic crops", "both views alike, no solarization, which MAST's five do not have", OWN,
        "augment.presets.vicreg",
    ),
    Departure(
        "MoCo", "what enters the queue", "keys of the slow copy", "AugSelf's and CASSLE's: queries of the trained network",
        "keys", PAPER, "methods.moco.MoCo",
    ),
    Departure(
        "MoCo", "projector", "two layers without batch-norm", "AugSelf's: batch-norm in the middle",
        "batch-norm in the middle", CODE, "methods.moco.MoCo",
    ),
    Departure(
        "SimCLR", "negatives in several processes", "all other rows", "AugSelf's: those of the own process",
        "those of all processes", PAPER, "losses.nt_xent",
    ),
    Departure(
        "SimSiam", "last batch-norm of the projector", "its authors' code: without scale and shift", "AugSelf's: with both",
        "with both", CODE, "methods.simsiam.SimSiam",
    ),
    Departure(
        "BYOL", "momentum", "rises to 1 along a cosine, step by step", "AugSelf's: epoch by epoch", "step by step", PAPER,
        "methods.base.cosine_to_one",
    ),
    Departure(
        "BYOL", "projector", "4096 hidden units", "AugSelf's 4096; CASSLE's as wide as the features",
        "4096 at the paper tier", PAPER, "methods.byol.BYOL",
    ),
    Departure(
        "SwAV", "two directions", "adds them", "its authors': takes their mean; AugSelf's: adds them", "mean", CODE,
        "losses.swav",
    ),
    Departure(
        "SwAV", "views", "two large crops and several small ones", "AugSelf's: two", "two", CODE, "methods.swav.SwAV",
    ),
    Departure(
        "SwAV", "assignments in several processes", "over the whole batch", "AugSelf's: in each process by itself",
        "over the rows of all processes", PAPER, "losses.sinkhorn",
    ),
    Departure(
        "SwAV", "prototypes at first", "stay at first, by its authors' settings for an epoch",
        "AugSelf's: no gradient for 410 steps", "stay for a share of the steps", OWN, "methods.swav.SwAV",
    ),
    Departure(
        "AugSelf", "flip of a crop's centre", _OPEN, "both views mirrored by the first one's flip", "each view's own", OWN,
        "augment.algebra.seen_crop",
    ),
    Departure(
        "AugSelf", "crop of a turned view", _OPEN, "is not turned with the view", "centre and sides turn with it", OWN,
        "augment.algebra.seen_crop",
    ),
    Departure(
        "AugSelf", "colour parameters", "in [0, 1], the identity in the middle", "in [-.5, .5], 0 the identity", "as the "
        "code; all differences are the same", BOTH, "augment.algebra.differences",
    ),
    Departure(
        "AugSelf", "target of the blur", _OPEN, "difference of sigmas up to 2, which a tanh cannot reach",
        "divided by the largest sigma", OWN, "augment.algebra.differences",
    ),
    Departure(
        "AugSelf", "loss of solarization", _OPEN, "compares every prediction with every target, by broadcasting",
        "each prediction with its own target", OWN, "methods.augself.task_loss",
    ),
    Departure(
        "AugSelf", "colour jitter", _OPEN, "saturation in HSV, one order of operations for a batch", "blend with grey, an "
        "order for each image", OWN, "augment.colour.ColorJitter",
    ),
    Departure(
        "AugSelf", "linear evaluation", _OPEN, "features as they are", "features standardised by those that are fitted on; "
        "as they are as an option", OWN, "evaluation.probes.logistic_probe",
    ),
    Departure(
        "CASSLE", "parts of the descriptor", _OPEN, "training without the flip, analyses with it", "without the flip", CODE,
        "spec.RunSpec",
    ),
    Departure(
        "CASSLE", "network that reads it", _OPEN, "scripts default to 2 layers of 32, published commands say 6 of 64",
        "6 of 64", CODE, "spec.RunSpec",
    ),
    Departure(
        "CASSLE", "generated projector", _OPEN, "batch-norm over the weights; the requested width is ignored", "as the code, "
        "with the requested widths and a starting scale of 1 / sqrt(inputs)", OWN, "methods.cassle.HyperProjector",
    ),
    Departure(
        "CASSLE", "telling a projector wrong", "information of another image, drawn at random", "the batch in reverse, in "
        "which the middle one of an odd batch is told its own; of flip and grayscale the flag is cleared", "the batch "
        "shifted, so that no image is told its own", PAPER, "evaluation.conditioning.agreement",
    ),
    Departure(
        "CASSLE", "batch-norm in analyses", _OPEN, "statistics of the analysed batch, which are updated",
        "evaluation mode everywhere", OWN, "evaluation.layers.layer_sensitivity",
    ),
    Departure(
        "CASSLE", "strengths of an augmentation", _OPEN, "each multiplies the one before", "each by itself", OWN,
        "evaluation.layers.at_strength",
    ),
    Departure(
        "LooC", "keys in the queues", _OPEN, _NONE, "of each head, its own positives", OWN, "methods.looc.LooC",
    ),
    Departure(
        "LooC", "LooC++", "copies part of the network for each space; which, the text at hand does not say", _NONE, "last "
        "residual stage; all of their outputs transfer", OWN, "methods.looc.LooC",
    ),
    Departure(
        "ssl-invariances", "whitening", "distances and cosines in whitened features", "Cholesky factor of the inverse "
        "covariance, in float32", "symmetric root in float64, eigenvalues shrunk by .01", OWN,
        "evaluation.whitening.Whitening",
    ),
    Departure(
        "ssl-invariances", "pairs of an object's pictures", _OPEN, "a picture with itself, too", "different pictures only",
        OWN, "evaluation.invariance.intrinsic",
    ),
    Departure(
        "ssl-invariances", "ridge penalty", _OPEN, "the grid's inverse where it should be the grid's value",
        "the grid's value", OWN, "evaluation.regression.ridge_probe",
    ),
)  # fmt: skip


def departures() -> pd.DataFrame:
    """DEPARTURES as a table, a column for each of its fields."""
    return pd.DataFrame([asdict(one) for one in DEPARTURES])


def found(at: str) -> Any:
    """The object of this package that a Departure's `at` names, such as "losses.invariance"."""
    module, _, name = at.rpartition(".")
    return getattr(importlib.import_module(f"mastlib.{module}"), name)
