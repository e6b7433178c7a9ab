"""Downstream tasks: which labels of which pool, how they are split, and what a frozen backbone scores on them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.closure import closure_hash
from mastlib.data.pools import Pool
from mastlib.data.splits import UNSEEN_VENDOR
from mastlib.errors import InputError, refuse
from mastlib.evaluate.features import extract
from mastlib.evaluate.probes import L2_GRID, THIN_GRID, logistic_probe, majority_accuracy, ridge_probe
from mastlib.evaluate.retrieval import cross_vendor_recall
from mastlib.files import write_text
from mastlib.runs import Run
from mastlib.transfer import backbone_of

#: For labels that belong to one concept each (a flag, a pointing hand): fitted, chosen and tested on one style each.
VENDOR_SPLIT = {"twemoji": "train", "openmoji": "val", UNSEEN_VENDOR: "test"}
COLUMNS = ["task", "metric", "value", "n", "protocol"]


@dataclass(frozen=True)
class Task:
    """A downstream protocol.

    name; kind: "classification", "regression" or "retrieval"; pool: "objects" or "latents"; labels: columns of the
    pool's table (one class or key; or the outputs of a regression); metric: "accuracy", "mean_recall" (mean over
    classes), "r2" (mean over outputs) or "recall_at_1"; sensitive_to: what the label depends on (colour, flip,
    rotation, position, scale), empty for none; split: "concept" (the pool's) or "vendor" (VENDOR_SPLIT); least: a class
    with fewer images in the pool is left out; toned: whether drawings in one of the five tones take part (each is there
    five times over); period: of an angle in its units, regressed as (sin, cos); doc: one line.
    """

    name: str
    kind: str
    pool: str
    labels: tuple[str, ...]
    metric: str
    sensitive_to: tuple[str, ...] = ()
    split: str = "concept"
    least: int = 1
    toned: bool = True
    period: float | None = None
    doc: str = ""


_CLASS, _LATENT = "classification", "regression"
_TASKS = (
    Task("category", _CLASS, "objects", ("category",), "mean_recall", doc="Unicode category, of unseen concepts."),
    Task(
        "subcategory", _CLASS, "objects", ("subcategory",), "mean_recall", least=36, toned=False,
        doc="Unicode subcategory, of unseen concepts.",
    ),
    Task("tone", _CLASS, "objects", ("tone",), "accuracy", ("colour",), doc="Which of five palette tones is used."),
    Task("hue", _CLASS, "objects", ("hue",), "mean_recall", ("colour",), doc="Dominant hue, computed from pixels."),
    Task(
        "flag", _CLASS, "objects", ("flag",), "accuracy", ("colour", "rotation"), "vendor",
        doc="Country of a flag, drawn in a style not fitted on.",
    ),
    Task(
        "pointing", _CLASS, "objects", ("pointing",), "accuracy", ("flip", "rotation"), "vendor",
        doc="Where a hand or arrow points, drawn in a style not fitted on.",
    ),
    Task(
        "retrieval", "retrieval", "objects", ("concept",), "recall_at_1",
        doc="The same concept, drawn by another vendor.",
    ),
    Task("position", _LATENT, "latents", ("x", "y"), "r2", ("position",), doc="Centre of the object."),
    Task("scale", _LATENT, "latents", ("scale",), "r2", ("scale",), doc="Size of the object."),
    Task("rotation", _LATENT, "latents", ("rotation",), "r2", ("rotation",), period=1.0, doc="Angle of the object."),
    Task("hue_shift", _LATENT, "latents", ("hue_shift",), "r2", ("colour",), period=1.0, doc="Turn of its hues."),
)  # fmt: skip
_REGISTRY = {task.name: task for task in _TASKS}


def list_tasks() -> list[str]:
    """Names of all tasks, in the order in which tables show them."""
    return list(_REGISTRY)


def get_task(name: str) -> Task:
    """The task `name`; InputError that lists all for an unknown one."""
    if name not in _REGISTRY:
        raise refuse("task", name, ", ".join(_REGISTRY))
    return _REGISTRY[name]


def describe_tasks(pools: Mapping[str, Pool]) -> pd.DataFrame:
    """A row per task, for a page of the book: what it is, images per split, what needs no features, what it lives on."""
    rows = []
    for task in _TASKS:
        labels, split = task_labels(task, pools[task.pool])
        known = ~(np.isnan(labels).any(axis=1) if task.kind == "regression" else pd.isna(labels))
        counts = {side: int((known & (split == side)).sum()) for side in ("train", "val", "test")}
        classes = labels.shape[1] if task.kind == "regression" else len(set(labels[known]))
        rows.append(
            {
                "task": task.name, "question": task.doc, "kind": task.kind, "metric": task.metric.replace("_", " "),
                "classes or outputs": classes, **counts, "without features": majority(task, pools[task.pool]),
                "lives on": ", ".join(task.sensitive_to) or "-",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("task").round({"without features": 3})


def task_labels(task: Task, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and split of the pool's images for `task`.

    Labels: class or key `(M,)` as objects, None where there is none; or targets `(M, T)` float64, NaN where there is
    none (an angle v becomes sin and cos of 2 pi v / period). Split `(M,)`: "train", "val", "test"; missing: left out.
    Raises InputError where the pool lacks a column.
    """
    table = pool.table
    side = "vendor" if task.split == "vendor" else "split"
    for column in (*task.labels, "vendor", side, *([] if task.toned else ["tone"])):
        if column not in table:
            raise InputError(f"pool {pool.name} has no column {column!r}, which task {task.name} reads")
    split = table["vendor"].map(VENDOR_SPLIT) if task.split == "vendor" else table["split"]
    if task.kind == "regression":
        values = table[list(task.labels)].to_numpy(dtype=np.float64)
        if task.period:
            turns = 2 * np.pi * values / task.period
            values = np.concatenate([np.sin(turns), np.cos(turns)], axis=1)
        return values, split.to_numpy(dtype=object)
    labels = table[task.labels[0]].astype(object)
    if not task.toned:
        labels = labels.where(table["tone"].isna(), None)
    counts = labels.map(labels.value_counts()).fillna(0)
    return labels.where(labels.notna() & (counts >= task.least), None).to_numpy(), split.to_numpy(dtype=object)


def majority(task: Task, pool: Pool) -> float:
    """What needs no features, in the task's metric: the most frequent class of train+val; for mean recall one over the
    test split's classes; for R^2 0 (the mean); for retrieval a random neighbour."""
    if task.kind == "regression":
        return 0.0
    labels, split = task_labels(task, pool)
    held_out = (split == "test") & ~pd.isna(labels)
    if not held_out.any():
        raise InputError(f"task {task.name}: split test has no labelled image")
    if task.kind == "retrieval":
        vendors = pool.table["vendor"].to_numpy()[held_out]
        return cross_vendor_recall(torch.zeros(int(held_out.sum()), 1), labels[held_out], vendors).chance
    if task.metric == "mean_recall":
        return 1 / len(set(labels[held_out]))
    fitted = np.isin(split.astype(str), ("train", "val")) & ~pd.isna(labels)
    return majority_accuracy(labels[fitted].astype(str), labels[held_out].astype(str))


def protocol(task: Task, grid: Sequence[float] = THIN_GRID) -> str:
    """How `task` is scored, in a few words: the rows' `protocol`."""
    if task.kind == "retrieval":
        return "nearest neighbour between vendors, cosine of centred features"
    if task.kind == "regression":
        return f"ridge, alpha by validation ({len(L2_GRID)} weights), standardised"
    count = f"{len(grid)} of {len(L2_GRID)}" if set(grid) <= set(L2_GRID) else f"{len(grid)}"
    return f"logistic, L2 by validation ({count} weights), standardised"


def evaluate_features(task: Task, features: Tensor, pool: Pool, grid: Sequence[float] = THIN_GRID) -> pd.DataFrame:
    """The row (task, metric, value, n, protocol) of features `(M, D)` of the pool's images; n: test images or queries.

    Raises InputError where the pool cannot serve the task: a column, a split or a second class is missing.
    """
    labels, split = task_labels(task, pool)
    if task.kind == "regression":
        ridge = ridge_probe(features, labels, split)
        value, n = ridge.mean_r2, ridge.n_test
    elif task.kind == "retrieval":
        held_out = split == "test"
        vendors = pool.table["vendor"].to_numpy()[held_out]
        found = cross_vendor_recall(features[torch.from_numpy(held_out)], labels[held_out], vendors)
        value, n = found.recall, found.n
    else:
        probe = logistic_probe(features, labels, split, grid, task.metric)
        value, n = getattr(probe, task.metric), probe.n_test
    return pd.DataFrame([(task.name, task.metric, value, n, protocol(task, grid))], columns=COLUMNS)


def evaluate_backbone(
    backbone: nn.Module,
    pools: Mapping[str, Pool],
    tasks: Sequence[str] | None = None,
    grid: Sequence[float] = THIN_GRID,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Rows (task, metric, value, n, protocol) of a frozen backbone; features are extracted once per pool.

    pools: by name; tasks: names, None for all; grid: penalties of the logistic probes (L2_GRID: the paper's 45);
    device: see `extract`. A task that cannot be scored on these pools gives one warning and no row.
    Raises InputError for an unknown task, and for features that are not finite.
    """
    chosen = [get_task(name) for name in (list_tasks() if tasks is None else tasks)]
    features: dict[str, Tensor] = {}
    rows = []
    for task in chosen:
        pool = _pool(task, pools)
        if pool is None:
            continue
        if pool.name not in features:
            features[pool.name] = extract(backbone, pool.images, device=device)
        try:
            rows.append(evaluate_features(task, features[pool.name], pool, grid))
        except InputError as error:
            warnings.warn(f"task {task.name} left out: {error}", stacklevel=2)
    return _joined(rows)


def load_backbone(run: Run) -> nn.Module:
    """The run's frozen backbone on the CPU, in evaluation mode; InputError for a damaged file."""
    backbone = backbone_of(run.spec)
    backbone.load_state_dict(run.weights("backbone"))
    return backbone.eval().requires_grad_(False)


def evaluate_run(
    run: Run,
    pools: Mapping[str, Pool],
    tasks: Sequence[str] | None = None,
    grid: Sequence[float] = THIN_GRID,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Rows (run_id, seed, task, metric, value, n, protocol) of a finished run, remembered beside it.

    `<run>/tasks/<task>-<key>.csv` holds a task's rows; the key covers the task, the protocol with its grid, the pool
    and the code that evaluates, so that a change of any of them scores anew and nothing stale is read. The backbone is
    loaded only if a task is missing. Arguments and errors as `evaluate_backbone`.
    """
    chosen = [get_task(name) for name in (list_tasks() if tasks is None else tasks)]
    code = closure_hash("mastlib.evaluate.tasks")
    files = {}
    for task in chosen:
        pool = _pool(task, pools)
        if pool is not None:
            files[task.name] = run.folder / "tasks" / f"{task.name}-{_key(task, pool, grid, code)}.csv"
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        rows = evaluate_backbone(load_backbone(run), pools, missing, grid, device)
        for name, part in rows.groupby("task"):
            write_text(files[str(name)], part.to_csv(index=False))
    done = [pd.read_csv(file, converters={"value": float}) for file in files.values() if file.is_file()]
    frame = _joined(done)
    frame.insert(0, "run_id", run.id)
    frame.insert(1, "seed", run.spec.seed)
    return frame


def _pool(task: Task, pools: Mapping[str, Pool]) -> Pool | None:
    """The task's pool, or None with a warning where it was not given."""
    if task.pool not in pools:
        warnings.warn(f"task {task.name} left out: pool {task.pool} was not given", stacklevel=3)
    return pools.get(task.pool)


def _key(task: Task, pool: Pool, grid: Sequence[float], code: str) -> str:
    definition = {name: value for name, value in asdict(task).items() if name != "doc"}
    penalties = sorted(grid) if task.kind == "classification" else []
    parts = [definition, protocol(task, grid), penalties, pool.fingerprint, code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`parts` under one another; without any, a table with the columns and no row."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
