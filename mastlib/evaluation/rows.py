"""A backbone, or a finished run, on tasks: one tidy table, remembered beside the run."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mastlib.closure import closure_hash
from mastlib.data.pools import Pool, load_pool
from mastlib.errors import InputError
from mastlib.evaluation.design import THIN_GRID
from mastlib.evaluation.detection import detect
from mastlib.evaluation.features import extract
from mastlib.evaluation.protocols import Score, score
from mastlib.evaluation.tasks import CLASSIFICATION, DETECTION, MULTILABEL, SEGMENTATION, Task, get_task, list_tasks
from mastlib.files import write_text
from mastlib.progress import bar
from mastlib.runs import Run
from mastlib.stats import Interval
from mastlib.training import weights_of
from mastlib.transfer import backbone_of

OF_BACKBONE = (DETECTION, SEGMENTATION)  # kinds that need more than frozen features
COLUMNS = ["task", "metric", "value", "low", "high", "n", "protocol"]


def evaluate(
    run: Run,
    tasks: Sequence[str] | None = None,
    pools: Mapping[str, Pool] | None = None,
    grid: Sequence[float] = THIN_GRID,
    device: torch.device | str | None = None,
    standardise: bool = True,
) -> pd.DataFrame:
    """Rows (run_id, seed, task, metric, value, low, high, n, protocol) of a finished run, remembered beside it.

    tasks: names, None for `list_tasks()`; pools: by name, None for those that the tasks ask for, whole and at the run's image
    size; grid: penalties of the logistic probes (`design.L2_GRID`: the paper's 45); device: see `extract`; standardise: whether
    logistic probes see standardised features. `low` and `high` bound the 95% interval that the test images give, `n` of them, or
    episodes: what other seeds give is another matter.

    `<run>/tasks/<task>-<key>.csv` holds a task's rows; the key covers the task, the penalties, the pool and the code that
    evaluates, so that a change of any of them scores anew and nothing stale is read. The backbone is loaded only if a task
    is missing. A task that cannot be scored gives one warning and no row. Raises InputError for an unknown task, and where the
    run's weights are damaged.
    """
    files, pools = _files(run, tasks, pools, grid, standardise)
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        made = evaluate_backbone(load_backbone(run), pools, missing, grid, device, standardise)
        for name, part in made.groupby("task"):
            write_text(files[str(name)], part.to_csv(index=False))
    exactly = dict.fromkeys(("value", "low", "high"), lambda text: float(text or "nan"))  # pandas' own reading rounds
    done = [pd.read_csv(file, converters=exactly) for file in files.values() if file.is_file()]
    frame = _joined(done)
    frame.insert(0, "run_id", run.id)
    frame.insert(1, "seed", run.spec.seed)
    return frame


def unscored(
    run: Run,
    tasks: Sequence[str] | None = None,
    pools: Mapping[str, Pool] | None = None,
    grid: Sequence[float] = THIN_GRID,
    standardise: bool = True,
) -> list[str]:
    """The tasks whose rows `evaluate` would have to make."""
    return [name for name, file in _files(run, tasks, pools, grid, standardise)[0].items() if not file.is_file()]


def evaluate_backbone(
    backbone: nn.Module,
    pools: Mapping[str, Pool],
    tasks: Sequence[str] | None = None,
    grid: Sequence[float] = THIN_GRID,
    device: torch.device | str | None = None,
    standardise: bool = True,
) -> pd.DataFrame:
    """Rows (task, metric, value, low, high, n, protocol) of a frozen backbone; features are extracted once per pool.

    Arguments and errors as `evaluate`; features that are not finite leave out the tasks that read them.
    """
    chosen = _served([get_task(name) for name in (list_tasks() if tasks is None else tasks)], pools)
    features: dict[str, Tensor | InputError] = {}
    rows = []
    with bar(len(chosen), "tasks", show=len(chosen) > 1) as shown:
        for task in chosen:
            shown.set_postfix_str(task.name)
            pool = pools[task.pool]
            scores: list[Score] = []
            try:
                if task.kind in OF_BACKBONE:
                    scores = _detected(task, backbone, pool)
                else:
                    if pool.name not in features:
                        features[pool.name] = _extracted(backbone, pool, device)
                    found = features[pool.name]
                    if isinstance(found, InputError):
                        raise found
                    for one in score(task, found, pool, grid, standardise):
                        scores.append(one)
            except InputError as error:  # what was found before stays
                warnings.warn(f"task {task.name} {'partly ' if scores else ''}left out: {error}", stacklevel=2)
            if scores:
                rows.append(_frame(task, scores))
            shown.update()
    return _joined(rows)


def evaluate_features(
    task: Task, features: Tensor, pool: Pool, grid: Sequence[float] = THIN_GRID, standardise: bool = True
) -> pd.DataFrame:
    """Rows (task, metric, value, low, high, n, protocol) of features `(M, D)` of the pool's images.

    `grid`, `standardise`: as `evaluate`.
    Raises InputError where the pool cannot serve the task: a column, a split or a second class is missing.
    """
    return _frame(task, list(score(task, features, pool, grid, standardise)))


def load_backbone(run: Run) -> nn.Module:
    """The run's frozen backbone on the CPU, in evaluation mode; InputError for a damaged file."""
    backbone = backbone_of(run.spec)
    backbone.load_state_dict(weights_of(run, "backbone"))
    return backbone.eval().requires_grad_(False)


def _files(
    run: Run,
    tasks: Sequence[str] | None,
    pools: Mapping[str, Pool] | None,
    grid: Sequence[float],
    standardise: bool,
) -> tuple[dict[str, Path], Mapping[str, Pool]]:
    """Where the rows of each task that can be served lie, there or not, and the pools."""
    chosen = [get_task(name) for name in (list_tasks() if tasks is None else tasks)]
    if pools is None:
        pools = {name: load_pool(name, run.spec.image_size) for name in dict.fromkeys(task.pool for task in chosen)}
    files = {
        task.name: run.folder / "tasks" / f"{task.name}-{_key(task, pools[task.pool], grid, standardise)}.csv"
        for task in _served(chosen, pools)
    }
    return files, pools


def _extracted(backbone: nn.Module, pool: Pool, device: torch.device | str | None) -> Tensor | InputError:
    """Features, or why there are none, which is then said of each task without trying again."""
    try:
        return extract(backbone, pool.images, device=device)
    except InputError as error:
        return error


def _detected(task: Task, backbone: nn.Module, pool: Pool) -> list[Score]:
    found = detect(backbone, pool, masks=task.kind == SEGMENTATION, frozen=task.frozen)
    how = f"{'Mask' if task.kind == SEGMENTATION else 'Faster'} R-CNN, {'frozen' if task.frozen else 'fine-tuned'}"
    nothing = float("nan")
    return [
        Score("ap", Interval(found.ap, found.low, found.high, found.n), how),
        Score("ap50", Interval(found.ap50, nothing, nothing, found.n), how),
        Score("ap75", Interval(found.ap75, nothing, nothing, found.n), how),
    ]


def _frame(task: Task, scores: Sequence[Score]) -> pd.DataFrame:
    return pd.DataFrame([(task.name, metric, *found, how) for metric, found, how in scores], columns=COLUMNS)


def _served(tasks: Sequence[Task], pools: Mapping[str, Pool]) -> list[Task]:
    """The tasks whose pool was given; a warning for each other one."""
    for task in tasks:
        if task.pool not in pools:
            warnings.warn(f"task {task.name} left out: pool {task.pool} was not given", stacklevel=4)
    return [task for task in tasks if task.pool in pools]


def _key(task: Task, pool: Pool, grid: Sequence[float], standardise: bool) -> str:
    definition = {name: value for name, value in asdict(task).items() if name != "doc"}
    of_backbone = task.kind in OF_BACKBONE  # a change there does not score the others anew
    code = closure_hash("mastlib.evaluation.detection" if of_backbone else "mastlib.evaluation.protocols")
    logistic = [sorted(grid), standardise] if task.kind in (CLASSIFICATION, MULTILABEL) else []
    parts = [definition, logistic, pool.fingerprint, code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`parts` under one another; without any, a table with the columns and no row."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
