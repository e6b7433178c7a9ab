"""Several settings, several seeds, one table: what a chapter's experiment comes down to."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from mastlib.data.pools import POOLS, Pool, load_pool
from mastlib.errors import InputError, check_choice, check_int
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.rows import evaluate, evaluate_backbone, load_backbone, unscored
from mastlib.evaluation.tasks import get_task, headline, list_tasks
from mastlib.forecast import forecast
from mastlib.models.backbones import build_backbone
from mastlib.remembered import known, remembered
from mastlib.runs import Run
from mastlib.shipped import there
from mastlib.spec import RunSpec
from mastlib.tiers import TIERS
from mastlib.training import fit
from mastlib.workers import at_once, spread

RANDOM = "random weights"  # the arm that every table holds: the same backbone and probe, no training


@dataclass(frozen=True)
class Model:
    """One network of a study: a finished `run`, or for the arm `RANDOM` the random weights of `seed`, with `run` None."""

    arm: str
    seed: int
    spec: RunSpec
    run: Run | None = None

    @property
    def identity(self) -> str:
        """The run's id and what its backbone's sha256 begins with; of random weights, what they are made from."""
        if self.run:
            return f"{self.run.id} {self.run.info['files']['backbone.safetensors']['sha256'][:16]}"
        return f"random {self.spec.backbone} {self.spec.width} {self.spec.stem} {self.seed}"

    def backbone(self) -> nn.Module:
        """The frozen backbone on the CPU, in evaluation mode."""
        return load_backbone(self.run) if self.run else untrained(self.spec, self.seed).eval().requires_grad_(False)


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

    def models(self, arms: Sequence[str] | None = None) -> list[Model]:
        """The networks of `arms` (None: all, random weights last), without runs that diverged."""
        found = [
            Model(arm, seed, run.spec, run)
            for (arm, seed), run in self.runs.items()
            if run.info["status"] != "diverged"
        ]
        seeds = {seed: run.spec for (_, seed), run in reversed(self.runs.items())}
        found += [Model(RANDOM, seed, spec) for seed, spec in sorted(seeds.items())]
        return [model for model in found if arms is None or model.arm in arms]

    def measured(
        self,
        name: str,
        measure: Callable[[Model], pd.DataFrame],
        *,
        code: str,
        arms: Sequence[str] | None = None,
        **settings: Any,
    ) -> pd.DataFrame:
        """The tables `measure(model)` of all `models(arms)` under one another, with columns arm and seed in front.

        Each is `remembered` by the model, `settings` (what `measure` was made with, such as a number of images) and the source of
        the module `code` that holds `measure`; a network is loaded only where its table is not there, several at once.
        """
        models, parts = self.models(arms), []
        make = [partial(remembered, name, m.identity, partial(measure, m), code=code, **settings) for m in models]
        found = [known(name, m.identity, code=code, **settings) for m in models]
        spread([one for one, done in zip(make, found, strict=True) if not done], name)
        for model, one in zip(models, make, strict=True):
            table = one()
            table.insert(0, "arm", model.arm)
            table.insert(1, "seed", model.seed)
            parts.append(table)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "seed"])

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


def seeded(arms: Mapping[str, RunSpec], seeds: Sequence[int]) -> dict[tuple[str, int], RunSpec]:
    """The spec of each (arm, seed): the seed is added to the arm's own. Raises InputError for a seed that is no natural number."""
    return {
        (arm, seed): spec.replace(seed=spec.seed + check_int("seed", seed, 0))
        for arm, spec in arms.items()
        for seed in seeds
    }


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
    planned = seeded(arms, seeds)
    cpus = TIERS[tier].cpus
    print(
        forecast(planned.values(), at_once=at_once(cpus)), file=sys.stderr, flush=True
    )  # beside the bars, which no page shows
    size = shared.pop()[-1]
    pools, grid = tier_pools(tier, size, tasks), tier_grid(tier)
    runs, parts, left_out = {}, [], []
    for seed in seeds:
        model = Model(RANDOM, seed, next(iter(arms.values())))
        asked = {name: pool.fingerprint for name, pool in pools.items()}
        rows = remembered(
            "random_tasks", [model.identity, asked, tasks, grid],
            partial(_evaluated, model, pools, tasks, grid), code="mastlib.evaluation.rows",
        )  # fmt: skip
        parts.append(rows.assign(arm=RANDOM, run_id="", seed=seed, status="ok"))
    missing = [spec for spec in dict.fromkeys(planned.values()) if not _scored(spec, pools, tasks, grid)]
    spread([partial(_score, spec, tier, tasks) for spec in missing], "runs", cpus)
    for (arm, seed), spec in planned.items():
        run = runs[arm, seed] = there(spec) or fit(spec)
        if run.info["status"] == "diverged":
            left_out.append(f"{arm}, seed {seed}: diverged, {run.info['reason']}")
            continue
        rows = evaluate(run, tasks, pools, grid)
        parts.append(rows.assign(arm=arm, seed=seed, status=run.info["status"]))
    return Study(runs, pd.concat(parts, ignore_index=True), left_out)


def _evaluated(
    model: Model, pools: Mapping[str, Pool], tasks: Sequence[str] | None, grid: Sequence[float]
) -> pd.DataFrame:
    return evaluate_backbone(model.backbone(), pools, tasks, grid)


def _scored(spec: RunSpec, pools: Mapping[str, Pool], tasks: Sequence[str] | None, grid: Sequence[float]) -> bool:
    """Whether the run of `spec` is there with its rows, or diverged, so that it has none."""
    run = there(spec)
    return run is not None and (run.info["status"] == "diverged" or not unscored(run, tasks, pools, grid))


def _score(spec: RunSpec, tier: str, tasks: Sequence[str] | None) -> None:
    """Train and evaluate, if it has to be; both are remembered."""
    run = there(spec) or fit(spec)
    if run.info["status"] != "diverged":
        evaluate(run, tasks, _pools(tier, spec.image_size, tasks and tuple(tasks)), tier_grid(tier))


@functools.lru_cache(maxsize=1)  # a process scores many runs
def _pools(tier: str, image_size: int, tasks: tuple[str, ...] | None) -> dict[str, Pool]:
    return tier_pools(tier, image_size, tasks)
