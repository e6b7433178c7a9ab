"""`python -m mastlib.reference`: make what the package ships of a tier's book, or train some of its runs again and compare."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mastlib.book import add_options, given_by
from mastlib.errors import InputError, check_int, refuse
from mastlib.evaluation.rows import evaluate
from mastlib.files import outputs_dir, reference_dir
from mastlib.grid import grid
from mastlib.runs import Run, RunStore
from mastlib.shipped import pack
from mastlib.spec import RunSpec
from mastlib.study import tier_grid, tier_pools
from mastlib.training import fit

TOLERANCE = 0.03  # mean change of a task's score that another machine's rounding may make


def make(root: Path, tier: str, given: dict[str, dict[str, Any]]) -> list[str]:
    """Pack the runs of the tier's grid that are there, and how long chapters took; the names of the runs that are missing."""
    rows = grid(root, tier, given).rows
    missing = pack([row.spec for row in rows], reference_dir() / tier)
    times = outputs_dir() / tier / "times.json"
    if times.is_file():
        shutil.copyfile(times, reference_dir() / tier / times.name)
    return [row.name for row in rows if row.spec in missing]


def verify(tier: str, count: int, seed: int = 0) -> pd.DataFrame:
    """Train `count` of the tier's shipped runs anew, drawn by `seed`, and compare.

    Columns: run_id, weights ("equal", to the bit, or "differ"), change (mean absolute difference of the tasks' scores, 0 where
    weights are equal), holds (whether that is within TOLERANCE). Raises InputError where nothing was shipped.
    """
    files = sorted((reference_dir() / tier / "runs").glob("*.json"))
    if not files:
        raise refuse("tier", tier, f"a tier of which runs were shipped in {reference_dir()}")
    chosen = random.Random(seed).sample(files, min(check_int("n", count, 1), len(files)))
    return pd.DataFrame([_compared(tier, json.loads(path.read_text(encoding="utf-8"))) for path in chosen])


def _compared(tier: str, record: dict[str, Any]) -> dict[str, Any]:
    shipped = record["info"]
    spec = RunSpec.from_dict(json.loads(record["files"]["spec.json"]))
    with tempfile.TemporaryDirectory() as folder:
        run = fit(spec, store=RunStore(Path(folder)))
        name = "backbone.safetensors"
        equal = run.info["files"][name]["sha256"] == shipped["files"][name]["sha256"]
        change = 0.0 if equal else _change(tier, run, record["tasks"])
    told = {"run_id": shipped["run_id"], "weights": "equal" if equal else "differ", "change": change}
    return told | {"holds": change <= TOLERANCE}


def _change(tier: str, run: Run, tasks: dict[str, str]) -> float:
    """Mean absolute difference of the scores of `run` and of the shipped rows, over tasks and metrics."""
    there = [line.split(",") for text in tasks.values() for line in text.splitlines()[1:]]
    shipped = pd.Series({(task, metric): float(value or "nan") for task, metric, value, *_ in there})
    asked = list(dict.fromkeys(task for task, _ in shipped.index))
    found = evaluate(run, asked, tier_pools(tier, run.spec.image_size, asked), tier_grid(tier))
    mine = found.set_index(["task", "metric"])["value"]
    return float((mine - shipped).abs().mean())


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
