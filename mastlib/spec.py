"""RunSpec: everything that decides what a pre-training run computes, checked before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mastlib.augment.algebra import DESCRIPTORS, TARGETS
from mastlib.errors import InputError, check_choice, check_float, check_int, refuse
from mastlib.methods import AWARENESS, HOSTS, REFUSED

Check = Callable[[str, Any], Any]  # (name, value) -> the value as it is kept; raises InputError


def _choice(*names: Any) -> Check:
    return partial(check_choice, choices=names)


def _integer(low: int, high: int) -> Check:
    return partial(check_int, low=low, high=high)


def _number(low: float, high: float) -> Check:
    return partial(check_float, low=low, high=high)


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) not in (0, *range(2, 9)):
        raise refuse(name, value, "none, or 2 to 8 integers from 1 to 65536")
    return tuple(check_int(f"{name}[{i}]", size, 1, 65536) for i, size in enumerate(value))


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Sorted, each once: the order in which augmentations are left out means nothing."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise refuse(name, value, "a list of the preset's augmentations, such as ['color', 'flip']")
    return tuple(sorted(set(value)))


def _out_of(name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    fits = isinstance(value, list | tuple) and value and all(item in known for item in value)
    if not fits or len(set(value)) < len(value):
        raise refuse(name, value, f"a list of different names out of {', '.join(known)}")
    return tuple(value)


def _tasks(name: str, value: Any) -> tuple[str, ...]:
    return _out_of(name, value, TARGETS)


def _keys(name: str, value: Any) -> tuple[str, ...]:
    """Sorted: a descriptor's parts are joined in alphabetical order."""
    return tuple(sorted(_out_of(name, value, tuple(DESCRIPTORS))))


def _weights(name: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise refuse(name, value, "a list of numbers from 0 to 1000")
    return tuple(check_float(f"{name}[{i}]", weight, 0, 1000) for i, weight in enumerate(value))


def _data(name: str, value: Any) -> str:
    """What the name stands for is seen when it is used."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path:
        raise refuse(name, value, "openemoji, or a folder of images")
    return path


ISOLATED = ("isolate_one", "isolate_each", "mixed")  # pairings with pairs that are made for one augmentation
BOUNDED = ("sigmoid", "hard")  # learned masks that cannot grow for ever


def _setting(default: Any, check: Check, doc: str, **only_with: Any) -> Any:
    """A field: default, what it accepts, and `doc` ("meaning, unit. Source: ..."), for messages and reference pages.

    `only_with`: other fields and the value, or tuple of values, that they need for this one to have any effect.
    """
    needs = {other: values if isinstance(values, tuple) else (values,) for other, values in only_with.items()}
    try:
        check("", None)
    except InputError as refusal:  # the words that a reader of an error sees are those of the reference page
        accepted = str(refusal).partition("accepted: ")[2]
    meaning, _, source = doc.partition(" Source: ")
    metadata = {"check": check, "accepted": accepted, "doc": meaning, "source": source, "only_with": needs}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One pre-training run, fully described; `dataclasses.fields(RunSpec)` holds each field's meaning, range, source.

    The defaults are VICReg's published settings (Bardes, Ponce, LeCun 2022) and, for MAST, which published none, those
    of this book; tiers.py has the other hosts' own. A setting that would have no effect beside the others (such as
    `mask_init` without MAST) must stay at its default. Lists become tuples, integers become floats where floats are meant.
    Raises InputError that names the field, its value and what is accepted.
    """

    # fmt: off
    host: str = _setting("vicreg", _choice(*HOSTS),
        doc="Objective: what is asked of the embeddings of two views. Source: Bardes et al. 2022; the others: see the catalogue.")
    awareness: str = _setting("none", _choice(*AWARENESS),
        doc="What the method does with the knowledge of how views were made. Source: Huang et al. 2023; Lee et al. 2021; "
        "Przewięźlikowski et al. 2024; Xiao et al. 2021.")
    data: str = _setting("openemoji", _data,
        doc="Images to train on: scenes with this book's images, or the path of a folder. Source: this book.")
    images: int = _setting(131072, _integer(64, 10_000_000),
        doc="Images an epoch: scenes that are rendered, or so many of the folder's. Source: this book.")
    image_size: int = _setting(64, _integer(16, 512),
        doc="Side of an image and of its views, pixels. Source: this book.")
    badge: float = _setting(0.0, _number(0, 0.5), data="openemoji",
        doc="Side of a badge with a random digit that is laid over all views of a scene alike, in sides of the view; 0: none. "
        "Source: after Chen, Luo, Li 2021.")

    augmentations: str = _setting("vicreg", _choice(
            "standard5", "moco_v2", "extended15", "vicreg", "augself_weak", "augself_default", "augself_strong",
            "augself_rot", "augself_sol", "default", "spatial", "appearance", "jitter_twice"),
        doc="Preset that views are made with. Source: Bardes et al. 2022, appendix C; standard5: Huang et al. "
        "2023, section 1.")
    without: tuple[str, ...] = _setting((), _names,
        doc="Augmentations of the preset that are left out. Source: Huang et al. 2023, figure 1.")
    pairing: str = _setting("independent", _choice(
            "independent", "plain", "composed", "isolate_one", "isolate_each", "mixed", "leave_one_out"),
        doc="Views drawn independently; the same, for all of MAST's masks alike (plain) or for those of what differs (composed); "
        "equal but for one augmentation an image; a view for each augmentation, equal to the first but for it; one augmentation "
        "in a share of the images (mixed); or LooC's query and keys. Source: Bardes et al. 2022; isolate_one: this book's "
        "reading of Huang et al. 2023; leave_one_out: Xiao et al. 2021.")
    crop_redrawn: float = _setting(0.5, _number(0, 1), pairing=ISOLATED,
        doc="Share of the isolated pairs whose crop is drawn anew besides. Source: this book.")
    isolated: float = _setting(0.5, _number(0, 1), pairing="mixed",
        doc="Share of the images whose views differ in one augmentation. Source: this book.")

    backbone: str = _setting("resnet50", _choice("resnet_small", "resnet18", "resnet34", "resnet50"),
        doc="Network whose features transfer. Source: He et al. 2016; Bardes et al. 2022.")
    width: int = _setting(32, _integer(4, 256), backbone="resnet_small",
        doc="w: resnet_small is w and 2w channels wide inside its blocks, 4w and 8w outside. Source: this book.")
    stem: str = _setting("standard", _choice("standard", "small", "patch"),
        doc="First layer: 7x7 stride 2 and max-pool, 3x3, or 4x4 stride 4. Source: He et al. 2016; "
        "patch: Dosovitskiy et al. 2021.")
    projector: tuple[int, ...] = _setting((), _sizes, host=tuple(name for name in HOSTS if name != "supervised"),
        doc="Widths of the projector's linear layers; (): those of the host's paper. Source: see the catalogue.")

    epochs: int = _setting(1000, _integer(1, 10_000),
        doc="Passes over the images. Source: Bardes et al. 2022, section 4.2.")
    batch_size: int = _setting(2048, _integer(2, 65_536),
        doc="Images a step, each in two views. Source: Bardes et al. 2022, section 4.2.")
    optimizer: str = _setting("lars", _choice("adamw", "lars", "sgd"),
        doc="Optimiser. Source: Bardes et al. 2022, section 4.2.")
    lr: float = _setting(0.2, _number(1e-8, 1000),
        doc="Base learning rate; the peak is lr x batch_size / 256. Source: Bardes et al. 2022, section 4.2.")
    weight_decay: float = _setting(1e-6, _number(0, 10),
        doc="Weight decay of matrices. Source: Bardes et al. 2022, section 4.2.")
    warmup_epochs: float = _setting(10.0, _number(0, 10_000),
        doc="Linear warm-up, epochs. Source: Bardes et al. 2022, section 4.2.")

    invariance_weight: float = _setting(25.0, _number(0, 1e6),
        doc="lambda, weight of the invariance term. Source: Bardes et al. 2022, section 4.1.")
    variance_weight: float = _setting(25.0, _number(0, 1e6),
        doc="mu, weight of the variance term. Source: Bardes et al. 2022, section 4.1.")
    covariance_weight: float = _setting(1.0, _number(0, 1e6),
        doc="nu, weight of the covariance term. Source: Bardes et al. 2022, section 4.1.")

    temperature: float = _setting(0.2, _number(0.001, 100), host=("simclr", "moco"),
        doc="T of the contrastive losses. Source: Chen et al. 2020 (MoCo v2).")
    queue: int = _setting(65536, _integer(1, 10_000_000), host="moco",
        doc="Keys that are kept as negatives. Source: He et al. 2020.")
    momentum: float = _setting(0.999, _number(0, 1), host=("moco", "byol"),
        doc="m of the slow copy; BYOL's rises from it to 1. Source: He et al. 2020; BYOL, .996: Grill et al. 2020.")
    prototypes: int = _setting(100, _integer(2, 100_000), host="swav",
        doc="Clusters that views are assigned to. Source: Lee et al. 2021 (code).")
    freeze_prototypes: float = _setting(0.01, _number(0, 1), host="swav",
        doc="Share of the steps, at first, in which the prototypes stay. Source: Caron et al. 2020: one epoch of 100 or more.")

    augself_tasks: tuple[str, ...] = _setting(("crop", "color"), _tasks, awareness="augself",
        doc="Augmentations whose difference between the views is predicted. Source: Lee et al. 2021, section 3.")
    augself_weights: tuple[float, ...] = _setting((1.0, 1.0), _weights, awareness="augself",
        doc="lambda of each task, in the tasks' order. Source: Lee et al. 2021 (STL-10).")
    condition_on: tuple[str, ...] = _setting(("blur", "color", "color_diff", "crop", "grayscale"), _keys, awareness="cassle",
        doc="Parts of the descriptor. Source: Przewięźlikowski et al. 2024 (code).")
    condition_mode: str = _setting("concat", _choice("concat", "raw", "add", "multiply", "hypernetwork"), awareness="cassle",
        doc="How the descriptor enters the projector. Source: Przewięźlikowski et al. 2024, section 3.")
    condition_depth: int = _setting(6, _integer(1, 20), awareness="cassle",
        doc="Layers of the network that reads the descriptor. Source: Przewięźlikowski et al. 2024 (code).")
    condition_width: int = _setting(64, _integer(1, 8192), awareness="cassle",
        doc="Width of that network. Source: Przewięźlikowski et al. 2024 (code).")
    condition_given: str = _setting("own", _choice("own", "another"), awareness="cassle",
        doc="Whose descriptor the projector is told: the view's own, or that of another image's view (a control). "
        "Source: own: Przewięźlikowski et al. 2024; another: this book.")

    looc_stages: bool = _setting(False, _choice(False, True), awareness="looc",
        doc="LooC++: each space has its own copy of the last residual stage, and what transfers is the concatenation of all. "
        "Source: Xiao et al. 2021, section 3.")
    mask_type: str = _setting("sigmoid", _choice("sigmoid", "relu", "hard", "blocks", "random", "ones"), awareness="mast",
        doc="Masks learned in [0, 1], from 0 up, or of zeros and ones; or fixed: disjoint blocks, a random half, all ones (a "
        "control). Source: this book; relu: Veit et al. 2017.")
    mask_on: str = _setting("embedding", _choice("embedding", "representation"), awareness="mast",
        doc="What is masked: the projector's output or its input. Source: this book.")
    mask_power: int = _setting(1, _choice(1, 2), awareness="mast", mask_type=("sigmoid", "relu"),
        doc="Power of the mask that weighs the invariance term. Source: this book.")
    mask_init: float = _setting(0.5, _number(0.01, 0.99), awareness="mast", mask_type=("sigmoid", "relu", "hard"),
        doc="Mean of the masks at the start. Source: after Veit et al. 2017, whose masks start at 0.9.")
    mask_lr: float = _setting(10.0, _number(0.001, 1000), awareness="mast", mask_type=("sigmoid", "relu", "hard"),
        doc="The masks' learning rate as a multiple of the network's. Source: this book.")
    mask_sparsity: float = _setting(0.0, _number(0, 10), awareness="mast", mask_type=("sigmoid", "relu", "hard"),
        doc="eta, weight of the mean mask relative to mu. Source: after Veit et al. 2017.")
    mask_choice: str = _setting("contrast", _choice("contrast", "loss"), awareness="mast", mask_type=BOUNDED,
        mask_on="embedding", subspace_loss="B", pairing=ISOLATED,
        doc="Masks choose dimensions that vary less under their own augmentation than under the others, or follow the loss, as "
        "they do where there is no choice. Source: this book.")
    mask_margin: float = _setting(0.1, _number(0, 10), awareness="mast", mask_choice="contrast", mask_type=BOUNDED,
        mask_on="embedding", subspace_loss="B", pairing=ISOLATED,
        doc="How much more than under the other augmentations a dimension must vary, relative to its average, to be left out by a "
        "mask that follows the contrast. Source: this book.")
    mask_diversity: float = _setting(30.0, _number(0, 1000), awareness="mast", mask_type=("sigmoid", "relu", "hard"),
        doc="Weight of the rows' squared positive cosines, their means removed. Source: this book.")
    outside_weight: float = _setting(1.0, _number(0, 1000), awareness="mast", mask_on="embedding", subspace_loss="B",
        pairing=ISOLATED,
        doc="Weight, relative to mu, of asking that dimensions outside a mask tell its augmentation. Source: this book.")
    outside_std: float = _setting(0.5, _number(0, 1), awareness="mast", mask_on="embedding", subspace_loss="B", pairing=ISOLATED,
        doc="gamma, how much they shall vary under it, in deviations of the embedding. Source: this book.")
    scale_fix: str = _setting("pin_std", _choice("pin_std", "none"), awareness="mast", subspace_loss=("A", "B", "C"),
        doc="Penalty on embedding deviations above 1, so that masks cannot trade scale with the embedding. "
        "Source: this book.")
    subspace_loss: str = _setting("B", _choice("A", "B", "C", "D"), awareness="mast",
        doc="Variance and covariance terms in every subspace (A), in the full space (B), in every subspace beside VICReg's loss "
        "of the full space (C); or a contrastive host's loss in each pair's subspace (D). Source: this book.")
    full_weight: float = _setting(1.0, _number(0, 1000), awareness="mast", subspace_loss="C",
        doc="Weight of VICReg's loss of the full space. Source: this book.")
    uncertainty: str = _setting("none", _choice(
            "none", "reweight", "gaussian", "gaussian_dims", "softmax", "moments", "task"), awareness="mast",
        doc="Pairs weighed by a learned variance at mean weight one, by the Gaussian likelihood itself, by one for each dimension, "
        "by learned weights, charged for variance, by one variance for each augmentation, or alike. "
        "Source: Huang et al. 2023, section 1; forms: Kendall and Gal 2017; Kendall et al. 2018.")

    knn_every: int = _setting(0, _integer(0, 10_000),
        doc="Epochs between nearest-neighbour and rank monitors; 0: at the end only. Source: this book.")
    precision: str = _setting("auto", _choice("auto", "fp32", "bf16"),
        doc="Arithmetic of the network; auto: the faster on this machine. Source: this book.")
    memory_format: str = _setting("auto", _choice("auto", "contiguous", "channels_last"),
        doc="Layout of images in memory; auto: the faster on this machine. Source: this book.")
    compile: str = _setting("auto", _choice("auto", "on", "off"),
        doc="Augmentations run as compiled code; auto: where a compiler is found and the run makes enough views. "
        "Source: this book.")
    seed: int = _setting(0, _integer(0, 2**32 - 1),
        doc="Seed of weights, order and views. Source: this book.")
    # fmt: on

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, field.metadata["check"](field.name, getattr(self, field.name)))
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                self._check_effect(field)
        if self.batch_size > self.images:
            raise refuse("batch_size", self.batch_size, f"at most images = {self.images}")
        if self.warmup_epochs > self.epochs:
            raise refuse("warmup_epochs", self.warmup_epochs, f"at most epochs = {self.epochs}")
        self._check_method()

    def _check_method(self) -> None:
        """That host, awareness and pairing go together."""
        if reason := REFUSED.get((self.host, self.awareness)):
            raise InputError(f"host = {self.host!r} with awareness = {self.awareness!r} cannot be used: {reason}")
        if (self.awareness == "looc") != (self.pairing == "leave_one_out"):
            raise refuse("pairing", self.pairing, "leave_one_out with awareness = 'looc', and with no other")
        if self.pairing in ("plain", "composed", "isolate_each") and self.awareness != "mast":
            raise refuse("pairing", self.pairing, f"{self.pairing} with awareness = 'mast' alone")
        if self.awareness == "mast":
            if self.pairing == "independent":
                raise refuse(
                    "pairing",
                    self.pairing,
                    f"plain, composed, {', '.join(ISOLATED)} with awareness = 'mast', whose masks need to know what a pair tells",
                )
            if self.subspace_loss == "D" and self.pairing == "isolate_each":
                raise refuse(
                    "pairing",
                    self.pairing,
                    "two views of an image with subspace_loss = 'D', not one for each augmentation",
                )
            if (self.subspace_loss == "D") != (self.host != "vicreg"):
                raise refuse(
                    "subspace_loss", self.subspace_loss, "A, B or C with host = 'vicreg', D with moco and simclr"
                )
            if self.contrasted and self.crop_redrawn == 1:
                raise refuse(
                    "crop_redrawn",
                    1.0,
                    "below 1 with mask_choice = 'contrast', which compares pairs that differ in one augmentation",
                )
            if self.subspace_loss == "D" and self.uncertainty not in ("none", "softmax"):
                raise refuse("uncertainty", self.uncertainty, "none or softmax with subspace_loss = 'D'")
        if len(self.augself_tasks) != len(self.augself_weights):
            raise refuse(
                "augself_weights",
                self.augself_weights,
                f"a number for each of augself_tasks = {self.augself_tasks}",
            )

    @property
    def subspaces_of_full_space(self) -> bool:
        """Whether MAST's masks weigh the invariance alone, of pairs made for one augmentation: what makes subspaces differ."""
        form = (self.awareness, self.subspace_loss, self.mask_on)
        return form == ("mast", "B", "embedding") and self.pairing in ISOLATED

    @property
    def of_folder(self) -> bool:
        """Whether `data` is the path of a folder."""
        return self.data != "openemoji"

    @property
    def contrasted(self) -> bool:
        """Whether MAST's masks follow the contrast between augmentations."""
        return self.subspaces_of_full_space and self.mask_choice == "contrast" and self.mask_type in BOUNDED

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run; an epoch's last images that fill no batch are left out."""
        return self.epochs * (self.images // self.batch_size)

    def _check_effect(self, field: dataclasses.Field[Any]) -> None:
        value = getattr(self, field.name)
        for other, values in field.metadata["only_with"].items():
            if getattr(self, other) not in values:
                raise InputError(
                    f"{field.name} = {value!r} has no effect with {other} = {getattr(self, other)!r}; "
                    f"leave it at {field.default!r}, or set {other} to {' or '.join(map(repr, values))}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec with `values` where they are given and defaults elsewhere; InputError for an unknown name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(str(name), known)
                hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
                raise InputError(f"unknown setting {name} = {values[name]!r}; {hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON has it: tuples as lists."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def replace(self, **changes: Any) -> RunSpec:
        """The spec with `changes`; raises InputError as `from_dict` does."""
        return self.from_dict({**self.to_dict(), **changes})
