"""Downstream tasks: which labels of which pool, and how they are split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from mastlib.data import bank
from mastlib.data.pools import BOX, Pool
from mastlib.data.splits import UNSEEN_VENDOR
from mastlib.errors import InputError, refuse

#: For labels that belong to one concept each (a flag, a pointing hand): fitted, chosen and tested on one style each.
VENDOR_SPLIT = {"twemoji": "train", "openmoji": "val", UNSEEN_VENDOR: "test"}
#: The same with as many styles to fit on as there are.
STYLE_SPLIT = {"twemoji": "train", "openmoji": "train", "noto": "train", "fluent-flat": "val", UNSEEN_VENDOR: "test"}
#: Subcategories of kinds that differ by colour and small parts.
SPECIES = (
    "animal-amphibian", "animal-bird", "animal-bug", "animal-mammal", "animal-marine", "animal-reptile", "food-fruit",
    "food-vegetable", "plant-flower", "plant-other",
)  # fmt: skip

CLASSIFICATION, MULTILABEL, REGRESSION, LOCALISATION = "classification", "multilabel", "regression", "localisation"
FEW_SHOT, RETRIEVAL, INFORMATION = "few_shot", "retrieval", "information"
DETECTION, SEGMENTATION = "detection", "segmentation"


@dataclass(frozen=True)
class Task:
    """A downstream protocol.

    name; kind: one of the constants above; pool: a name of `data.pools.POOLS`; labels: columns of the pool's table (one class or
    key; or the outputs of a regression), none where the pool's boxes and sprites are the labels; metric: the one that tables
    show, of those that `protocols` computes for the kind; sensitive_to: what the label depends on (colour, flip, rotation,
    position, scale, light, texture), empty for none; split: a name of SPLITTERS; least: a class with fewer images in the pool is
    left out; among: subcategories that images are of (none: all); toned: whether drawings in one of the five tones take part
    (each is there five times over); period: of an angle in its units, regressed as (sin, cos); shots: examples a class; frozen:
    whether a detector leaves the backbone as it is; standard: whether it is asked where no task is named; doc: one line.
    """

    name: str
    kind: str
    pool: str
    labels: tuple[str, ...]
    metric: str
    sensitive_to: tuple[str, ...] = ()
    split: str = "concept"
    least: int = 1
    among: tuple[str, ...] = ()
    toned: bool = True
    period: float | None = None
    shots: tuple[int, ...] = ()
    frozen: bool = True
    standard: bool = True
    doc: str = ""


def _one_class(name: str, label: str, metric: str, *sensitive_to: str, pool: str = "objects", **rest: object) -> Task:
    return Task(name, CLASSIFICATION, pool, (label,), metric, sensitive_to, **rest)  # type: ignore[arg-type]


def _latent(name: str, *sensitive_to: str, labels: tuple[str, ...] = (), doc: str, period: float | None = None) -> Task:
    return Task(name, REGRESSION, "latents", labels or (name,), "r2", sensitive_to, period=period, doc=doc)


_TASKS = (
    _one_class("category", "category", "mean_recall", doc="Unicode category, of unseen concepts."),
    _one_class(
        "subcategory", "subcategory", "mean_recall", least=36, toned=False, doc="Unicode subcategory, of unseen concepts.",
    ),
    _one_class(
        "unseen_style", "category", "mean_recall", split="unseen",
        doc="Unicode category, of unseen concepts in a style not fitted on.",
    ),
    Task("contents", MULTILABEL, "several", (), "mean_ap", doc="Which Unicode categories a scene of several objects holds."),
    Task(
        "few_shot", FEW_SHOT, "objects", ("concept",), "accuracy_1", toned=False, shots=(1, 4),
        doc="Which of five unseen concepts, from one drawing of each, or four, by other vendors.",
    ),
    Task(
        "few_shot_kind", FEW_SHOT, "objects", ("subcategory",), "accuracy_5", toned=False, shots=(1, 5),
        doc="Which of five subcategories, from one drawing of unseen concepts of each, or five.",
    ),
    Task(
        "retrieval", RETRIEVAL, "objects", ("concept",), "recall_at_1",
        doc="The same concept, drawn by another vendor.",
    ),
    _one_class("tone", "tone", "accuracy", "colour", doc="Which of five palette tones is used."),
    _one_class("hue", "hue", "mean_recall", "colour", doc="Dominant hue, computed from pixels."),
    _one_class(
        "species", "concept", "accuracy", "colour", split="style", among=SPECIES, toned=False,
        doc="Which animal, plant, fruit or vegetable, of concepts not trained on, drawn in a style not fitted on.",
    ),
    _one_class(
        "flag", "flag", "accuracy", "colour", "rotation", split="vendor",
        doc="Country of a flag, drawn in a style not fitted on.",
    ),
    _one_class(
        "pointing", "pointing", "accuracy", "flip", "rotation", split="vendor",
        doc="Where a hand or arrow points, drawn in a style not fitted on.",
    ),
    _one_class(
        "left_right", "left_right", "accuracy", "flip", split="vendor",
        doc="Left or right hand or arrow, drawn in a style not fitted on.",
    ),
    _one_class(
        "facing", "faces", "accuracy", "flip", pool="mirrored",
        doc="Where a person faces, in activities not fitted on, each drawing as it is and mirrored.",
    ),
    _one_class(
        "turn", "turn", "accuracy", "rotation", pool="turned", doc="By how many quarters an upright drawing is turned.",
    ),
    _one_class("style", "vendor", "accuracy", "texture", toned=False, doc="Who drew it, of unseen concepts."),
    _latent("position", "position", labels=("x", "y"), doc="Centre of the object."),
    _latent("scale", "scale", doc="Size of the object."),
    Task("localisation", LOCALISATION, "latents", BOX, "iou", ("position", "scale"), doc="Box of what is visible of it."),
    _latent("rotation", "rotation", period=1.0, doc="Angle of the object."),
    _latent("hue_shift", "colour", period=1.0, doc="Turn of its hues."),
    _latent("light_hue", "colour", period=1.0, doc="Hue of the light."),
    _latent("light_direction", "light", period=1.0, doc="Where the light comes from."),
    _latent("background_hue", "colour", period=1.0, doc="Hue of a background that is no photograph."),
    _latent("exposure", "light", doc="Exposure of the scene."),
    Task(
        "detection", DETECTION, "several", (), "ap", ("position", "scale"), frozen=False, standard=False,
        doc="Boxes and categories of several objects, the backbone fine-tuned.",
    ),
    Task(
        "detection_frozen", DETECTION, "several", (), "ap", ("position", "scale"), standard=False,
        doc="Boxes and categories of several objects, the backbone frozen.",
    ),
    Task(
        "segmentation", SEGMENTATION, "several", (), "ap", ("position", "scale"), frozen=False, standard=False,
        doc="Masks and categories of several objects, the backbone fine-tuned.",
    ),
    Task(
        "segmentation_frozen", SEGMENTATION, "several", (), "ap", ("position", "scale"), standard=False,
        doc="Masks and categories of several objects, the backbone frozen.",
    ),
    Task(
        "information", INFORMATION, "objects", (), "nats", ("colour",), standard=False,
        doc="What features tell of the image's colour histogram.",
    ),
)  # fmt: skip
_REGISTRY = {task.name: task for task in _TASKS}


def _sensitive(*to: str) -> tuple[str, ...]:
    return tuple(task.name for task in _TASKS if task.standard and {*to} & {*task.sensitive_to})


#: The standard tasks by what their labels depend on; one may depend on several.
TASK_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "recognition": tuple(task.name for task in _TASKS if task.standard and not task.sensitive_to),
        "colour": _sensitive("colour"), "light": _sensitive("light"), "texture": _sensitive("texture"),
        "place and size": _sensitive("position", "scale"), "orientation": _sensitive("rotation", "flip"),
    }
)  # fmt: skip


def list_tasks(standard: bool = True) -> list[str]:
    """Names of the standard tasks, in the order in which tables show them; with `standard` False, of all."""
    return [task.name for task in _REGISTRY.values() if task.standard or not standard]


def get_task(name: str) -> Task:
    """The task `name`; InputError that lists all for an unknown one."""
    if name not in _REGISTRY:
        raise refuse("task", name, ", ".join(_REGISTRY))
    return _REGISTRY[name]


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose metric is the one that their task is known by."""
    return rows[[metric == get_task(task).metric for task, metric in zip(rows["task"], rows["metric"], strict=True)]]


def _unseen(table: pd.DataFrame) -> pd.Series:
    """By concept, and the unseen vendor's drawings tested on alone."""
    return table["split"].where((table["vendor"] == UNSEEN_VENDOR) == (table["split"] == "test"))


def _style(table: pd.DataFrame) -> pd.Series:
    """By style; the concepts that are trained on take no part."""
    return table["vendor"].map(STYLE_SPLIT).where(table["split"] != "train")


#: How the rows of a pool's table are split: "train", "val", "test", missing where a row takes no part.
SPLITTERS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = MappingProxyType(
    {
        "concept": lambda table: table["split"],
        "vendor": lambda table: table["vendor"].map(VENDOR_SPLIT),
        "style": _style,
        "unseen": _unseen,
    }
)


def task_split(task: Task, pool: Pool) -> np.ndarray:
    """Split `(M,)` of the pool's images: "train", "val", "test"; missing: left out. InputError where the pool lacks a column."""
    _need(task, pool, "vendor", "split")
    return SPLITTERS[task.split](pool.table).to_numpy(dtype=object)


def task_classes(task: Task, pool: Pool) -> np.ndarray:
    """The class or key of each of the pool's images `(M,)`, as objects, None where there is none. InputError as `task_split`."""
    _need(task, pool, *task.labels, *(["subcategory"] if task.among else []), *([] if task.toned else ["tone"]))
    table = pool.table
    labels = table[task.labels[0]].astype(object)
    if not task.toned:
        labels = labels.where(table["tone"].isna(), None)
    if task.among:
        labels = labels.where(table["subcategory"].isin(task.among), None)
    counts = labels.map(labels.value_counts()).fillna(0)
    return labels.where(labels.notna() & (counts >= task.least), None).to_numpy(copy=True)


def task_targets(task: Task, pool: Pool) -> np.ndarray:
    """Targets `(M, T)` float64, NaN where there is none; an angle v becomes sin and cos of 2 pi v / period. InputError as above."""
    _need(task, pool, *task.labels)
    values = pool.table[list(task.labels)].to_numpy(dtype=np.float64)
    if task.period:
        turns = 2 * np.pi * values / task.period
        values = np.concatenate([np.sin(turns), np.cos(turns)], axis=1)
    return values


def task_contents(task: Task, pool: Pool) -> pd.DataFrame:
    """Which categories the visible objects of each image have: a row of bools for each image, a column for each category."""
    if pool.sprites is None or pool.boxes is None:
        raise InputError(f"pool {pool.name} has no sprites and boxes, which task {task.name} reads")
    categories = bank.load_table()["category"].astype("category").cat
    visible = ((pool.sprites >= 0) & (pool.boxes[..., 2] > pool.boxes[..., 0])).numpy()
    codes = np.where(visible, categories.codes.to_numpy()[pool.sprites.clamp(min=0).numpy()], -1)
    return pd.DataFrame({name: (codes == code).any(axis=1) for code, name in enumerate(categories.categories)})


def _need(task: Task, pool: Pool, *columns: str) -> None:
    for column in columns:
        if column not in pool.table:
            raise InputError(f"pool {pool.name} has no column {column!r}, which task {task.name} reads")
