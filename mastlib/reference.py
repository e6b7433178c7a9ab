"""`python -m mastlib.reference`: make what the package ships of a tier's book, or train some of its runs again and compare."""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mastlib.book import add_options, given_by
from mastlib.errors import InputError, check_int, refuse
from mastlib.evaluation.rows import evaluate
from mastlib.files import outputs_dir, reference_dir
from mastlib.grid import grid
from mastlib.runs import RunStore
from mastlib.shipped import pack
from mastlib.spec import RunSpec
from mastlib.study import tier_grid, tier_pools
from mastlib.tiers import TIERS
from mastlib.training import fit
from mastlib.workers import spread

NEAR = 0.5  # of the distance to the nearest other seed: rounding stays far below, another run does not


def make(root: Path, tier: str, given: dict[str, dict[str, Any]]) -> list[str]:
    """Pack the runs of the tier's grid that are there, and how long chapters took; the names of the runs that are missing."""
    rows = grid(root, tier, given).rows
    missing = pack([row.spec for row in rows], reference_dir() / tier)
    times = outputs_dir() / tier / "times.json"
    if times.is_file():
        shutil.copyfile(times, reference_dir() / tier / times.name)
    return [row.name for row in rows if row.spec in missing]


def verify(tier: str, count: int, seed: int = 0) -> pd.DataFrame:
    """Train `count` of the tier's shipped runs anew, drawn by `seed`, and compare each with what was shipped.

    Columns: run_id; weights ("equal", to the bit, or "differ"); curve (the largest relative difference of what was logged of the
    first epoch) and change (mean absolute difference of the tasks' scores), and the same of the nearest shipped run that differs in
    nothing but the seed, other_curve and other_change, NaN where there is none; holds. A run holds whose curve is within NEAR of
    other_curve, and where weights are equal its change within NEAR of other_change: sums in another order make another run of it
    only later.
    Raises InputError where nothing was shipped.
    """
    files = sorted((reference_dir() / tier / "runs").glob("*.json"))
    if not files:
        raise refuse("tier", tier, f"a tier of which runs were shipped in {reference_dir()}")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    chosen = random.Random(seed).sample(records, min(check_int("n", count, 1), len(files)))
    return pd.DataFrame([_compared(tier, record, records) for record in chosen])


def _compared(tier: str, record: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shipped, spec = record["info"], _spec(record)
    others = [one for one in records if one is not record and _spec(one).replace(seed=spec.seed) == spec]
    with tempfile.TemporaryDirectory() as folder:
        (run,) = spread([partial(fit, spec, store=RunStore(Path(folder)))], "run", TIERS[tier].cpus)
        name = "backbone.safetensors"
        equal = run.info["files"][name]["sha256"] == shipped["files"][name]["sha256"]
        mine, theirs = _scores(record["tasks"]), [_scores(one["tasks"]) for one in others]
        asked = list(dict.fromkeys(task for task, _ in mine.index))
        rows = evaluate(run, asked, tier_pools(tier, spec.image_size, asked), tier_grid(tier))
        curve = _apart(run.metrics(), _metrics(record))
    change = float((rows.set_index(["task", "metric"])["value"] - mine).abs().mean())
    other_curve = min((_apart(_metrics(one), _metrics(record)) for one in others), default=math.nan)
    other_change = min((float((one - mine).abs().mean()) for one in theirs), default=math.nan)
    holds = curve <= NEAR * other_curve and (not equal or change <= NEAR * other_change)
    return {
        "run_id": shipped["run_id"], "weights": "equal" if equal else "differ", "curve": curve, "other_curve": other_curve,
        "change": change, "other_change": other_change, "holds": holds,
    }  # fmt: skip


def _spec(record: dict[str, Any]) -> RunSpec:
    return RunSpec.from_dict(json.loads(record["files"]["spec.json"]))


def _metrics(record: dict[str, Any]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(record["files"]["metrics.csv"]))


def _apart(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The largest relative difference of what was logged of the first epoch, times left out."""
    a, b = (table.drop(columns=["seconds", "images_per_second"]).iloc[0].astype(float) for table in (one, other))
    return float(((a - b).abs() / (a.abs() + b.abs())).max())


def _scores(tasks: dict[str, str]) -> pd.Series:
    """The shipped scores by (task, metric)."""
    rows = pd.concat([pd.read_csv(io.StringIO(text)) for text in tasks.values()])
    return rows.set_index(["task", "metric"])["value"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a shipped run is missing or does not hold, 2 an input cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m mastlib.reference", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    add_options(actions.add_parser("make", help="lay the results of the runs that are there under outputs/reference"))
    compare = actions.add_parser("verify", help="train some of the shipped runs anew and compare")
    add_options(compare)
    compare.add_argument("-n", type=int, default=3, help="how many (default: 3)")
    compare.add_argument("--seed", type=int, default=0, help="by which they are drawn (default: 0)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.action == "make":
            missing = make(chosen.book, chosen.tier, given_by(chosen.parameter))
            print(f"{reference_dir() / chosen.tier}", *(f"not there: {name}" for name in missing), sep="\n")
            return 1 if missing else 0
        found = verify(chosen.tier, chosen.n, chosen.seed)
    except InputError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 2
    print(found.to_string(index=False))
    return 0 if found["holds"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
