"""Several settings, several seeds, one table: what a chapter's experiment comes down to."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from mastlib.data.pools import POOLS, Pool, load_pool
from mastlib.errors import InputError, check_choice, check_int
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.rows import evaluate, evaluate_backbone
from mastlib.evaluation.tasks import get_task, headline, list_tasks
from mastlib.forecast import forecast
from mastlib.models.backbones import build_backbone
from mastlib.runs import Run
from mastlib.spec import RunSpec
from mastlib.tiers import TIERS
from mastlib.training import fit

RANDOM = "random weights"  # the arm that every table holds: the same backbone and probe, no training


@dataclass(frozen=True)
class Study:
    """Finished runs by (arm, seed), and tidy rows: arm, run_id, seed, status, task, metric, value, low, high, n, protocol.

    `rows` has the metric that a task is known by, `every_metric` the others too. Runs that diverged have no rows; `left_out` says
    which and why, for the page to show.
    """

    runs: dict[tuple[str, int], Run]
    every_metric: pd.DataFrame
    left_out: list[str]

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each arm, seed and task."""
        return headline(self.every_metric).reset_index(drop=True)

    def of(self, arm: str) -> list[Run]:
        """The runs of `arm`, one per seed."""
        return [run for (name, _), run in self.runs.items() if name == arm]

    def metrics(self) -> pd.DataFrame:
        """The training curves of all runs under one another, with columns arm and seed."""
        return pd.concat([run.metrics().assign(arm=arm, seed=seed) for (arm, seed), run in self.runs.items()])


def tier_pools(tier: str, image_size: int, tasks: Sequence[str] | None = None) -> dict[str, Pool]:
    """The evaluation pools that `tasks` read (None: the standard ones), at the size that `tier` asks for."""
    limits = TIERS[check_choice("tier", tier, TIERS)].pools
    wanted = {get_task(name).pool for name in (list_tasks() if tasks is None else tasks)}
    return {name: load_pool(name, image_size, limits.get(name)) for name in POOLS if name in wanted}


def tier_grid(tier: str) -> tuple[float, ...]:
    """The probe's regularisation weights that `tier` tries: every n-th of the 45."""
    return tuple(L2_GRID[:: TIERS[tier].every_weight])


def untrained(spec: RunSpec, seed: int) -> nn.Module:
    """The plain backbone of `spec` with the random weights of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(spec.backbone, spec.width, spec.stem)


def run_study(
    arms: Mapping[str, RunSpec], seeds: Sequence[int], tier: str, tasks: Sequence[str] | None = None
) -> Study:
    """Fit every arm with every seed (or read the finished run), evaluate it on `tasks`, and join the rows.

    All arms share one backbone architecture, so `random weights` is evaluated once per seed beside them; LooC++ copies the
    last stage of that backbone and is compared with it.
    Before anything is trained one line says how many runs there are to train and how long like ones took.
    Raises InputError before any training where arms differ in backbone or image size, or there is no seed.
    """
    shared = {(s.backbone, s.width, s.stem, s.image_size) for s in arms.values()}
    if len(shared) != 1:
        raise InputError(
            f"arms = {', '.join(arms)} cannot be compared: they differ in backbone, width, stem or image_size"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds = {list(seeds)} cannot be used; accepted: one or more different integers")
    planned = {
        (arm, check_int("seed", seed, 0)): spec.replace(seed=seed) for arm, spec in arms.items() for seed in seeds
    }
    print(forecast(planned.values()), file=sys.stderr, flush=True)  # beside the progress bars, which no page shows
    size = shared.pop()[-1]
    pools, grid = tier_pools(tier, size, tasks), tier_grid(tier)
    runs, parts, left_out = {}, [], []
    for seed in seeds:
        rows = evaluate_backbone(untrained(next(iter(arms.values())), seed), pools, tasks, grid)
        parts.append(rows.assign(arm=RANDOM, run_id="", seed=seed, status="ok"))
    for (arm, seed), spec in planned.items():
        run = runs[arm, seed] = fit(spec)
        if run.info["status"] == "diverged":
            left_out.append(f"{arm}, seed {seed}: diverged, {run.info['reason']}")
            continue
        rows = evaluate(run, tasks, pools, grid)
        parts.append(rows.assign(arm=arm, status=run.info["status"]))
    return Study(runs, pd.concat(parts, ignore_index=True), left_out)
