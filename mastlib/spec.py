"""RunSpec: everything that decides what a pre-training run computes, checked before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mastlib.errors import InputError, check_choice, check_float, check_int, refuse
from mastlib.methods import MODULES

Check = Callable[[str, Any], Any]  # (name, value) -> the value as it is kept; raises InputError


def _choice(*names: Any) -> Check:
    return partial(check_choice, choices=names)


def _integer(low: int, high: int) -> Check:
    return partial(check_int, low=low, high=high)


def _number(low: float, high: float) -> Check:
    return partial(check_float, low=low, high=high)


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= 8:
        raise refuse(name, value, "2 to 8 integers from 1 to 65536")
    return tuple(check_int(f"{name}[{i}]", size, 1, 65536) for i, size in enumerate(value))


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Sorted, each once: the order in which augmentations are left out means nothing."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise refuse(name, value, "a list of the preset's augmentations, such as ['color', 'flip']")
    return tuple(sorted(set(value)))


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
    of this book. A setting that would have no effect beside the others (such as `mask_init` without MAST) must stay at
    its default. Lists become tuples, integers become floats where floats are meant.
    Raises InputError that names the field, its value and what is accepted.
    """

    # fmt: off
    method: str = _setting("vicreg", _choice(*MODULES),
        doc="Pre-training method. Source: Bardes et al. 2022; Huang et al. 2023.")
    data: str = _setting("openemoji", _choice("openemoji"),
        doc="Images to train on. Source: this book's image bank.")
    images: int = _setting(131072, _integer(64, 10_000_000),
        doc="Rendered training scenes, images an epoch. Source: this book.")
    image_size: int = _setting(64, _integer(16, 512),
        doc="Side of an image and of its views, pixels. Source: this book.")

    augmentations: str = _setting("vicreg", _choice(
            "standard5", "moco_v2", "extended15", "vicreg", "augself_weak", "augself_default", "augself_strong",
            "augself_rot", "augself_sol", "default", "spatial", "appearance"),
        doc="Preset that views are made with. Source: Bardes et al. 2022, appendix C; standard5: Huang et al. "
        "2023, section 1.")
    without: tuple[str, ...] = _setting((), _names,
        doc="Augmentations of the preset that are left out. Source: Huang et al. 2023, figure 1.")
    pairing: str = _setting("independent", _choice("independent", "isolate_one"),
        doc="Views drawn independently, or equal but for one augmentation an image. Source: Bardes et al. 2022; "
        "isolate_one: this book's reading of Huang et al. 2023.")
    crop_always: bool = _setting(True, _choice(False, True), pairing="isolate_one",
        doc="The crop differs besides the isolated augmentation. Source: this book.")

    backbone: str = _setting("resnet50", _choice("resnet_small", "resnet18", "resnet34", "resnet50"),
        doc="Network whose features transfer. Source: He et al. 2016; Bardes et al. 2022.")
    width: int = _setting(32, _integer(4, 256), backbone="resnet_small",
        doc="w: resnet_small is w and 2w channels wide inside its blocks, 4w and 8w outside. Source: this book.")
    stem: str = _setting("standard", _choice("standard", "small", "patch"),
        doc="First layer: 7x7 stride 2 and max-pool, 3x3, or 4x4 stride 4. Source: He et al. 2016; "
        "patch: Dosovitskiy et al. 2021.")
    expander: tuple[int, ...] = _setting((8192, 8192, 8192), _sizes,
        doc="Widths of the expander's linear layers. Source: Bardes et al. 2022, section 4.2.")

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

    mask_type: str = _setting("sigmoid", _choice("sigmoid", "ones"), method="mast",
        doc="Learned masks in [0, 1], or masks of ones (a control). Source: this book.")
    mask_power: int = _setting(2, _choice(1, 2), method="mast", mask_type="sigmoid",
        doc="Power of the mask that weighs the invariance term. Source: this book.")
    mask_init: float = _setting(0.9, _number(0.01, 0.99), method="mast", mask_type="sigmoid",
        doc="Mean of the masks at the start. Source: after Veit et al. 2017.")
    mask_lr: float = _setting(1.0, _number(0.001, 1000), method="mast", mask_type="sigmoid",
        doc="The masks' learning rate as a multiple of the network's. Source: this book.")
    mask_sparsity: float = _setting(0.0, _number(0, 10), method="mast", mask_type="sigmoid",
        doc="eta, weight of the mean mask relative to mu. Source: after Veit et al. 2017.")
    scale_fix: str = _setting("pin_std", _choice("pin_std", "none"), method="mast",
        doc="Penalty on embedding deviations above 1, so that masks cannot trade scale with the embedding. "
        "Source: this book.")
    subspace_loss: str = _setting("A", _choice("A", "B"), method="mast",
        doc="Variance and covariance terms in every subspace (A) or in the full space (B). Source: this book.")
    uncertainty: str = _setting("reweight", _choice("none", "reweight", "gaussian"), method="mast",
        doc="Pairs weighed by a learned variance at mean weight one, by the Gaussian likelihood itself, or alike. "
        "Source: Huang et al. 2023, section 1; form: Kendall and Gal 2017.")

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
        if self.method == "mast" and self.pairing != "isolate_one":
            raise refuse(
                "pairing", self.pairing, "isolate_one with method = 'mast', whose masks need views that differ in one"
            )

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
