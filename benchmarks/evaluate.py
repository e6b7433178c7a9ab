"""How long a run's tasks take, task by task, features included: the standard ones within 15 s, a detector within 2 minutes.

    python benchmarks/evaluate.py [--json FILE] [--tier laptop] [--detectors] [--information] [--exact]

Trains VICReg of the tier, or finds it, and scores it; nothing is remembered, and images are rendered, and read, before the
clock starts. With --exact each classification is scored again with penalties compared by fits that are a hundred times as exact.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mastlib import provenance
from mastlib.data.pools import Pool
from mastlib.errors import InputError
from mastlib.evaluation import probes
from mastlib.evaluation.features import extract
from mastlib.evaluation.rows import OF_BACKBONE, evaluate_backbone, evaluate_features, load_backbone
from mastlib.evaluation.tasks import CLASSIFICATION, INFORMATION, get_task, list_tasks, task_classes, task_split
from mastlib.files import write_text
from mastlib.study import tier_grid, tier_pools
from mastlib.tiers import TIERS, tier_spec
from mastlib.training import fit


def compared(features: dict[str, torch.Tensor], pools: dict[str, Pool], grid: Sequence[float]) -> list[dict[str, Any]]:
    """Each classification's penalty and score as they are, and by a path of fits that are a hundred times as exact."""
    rows = []
    for task in map(get_task, list_tasks()):
        if task.kind == CLASSIFICATION:
            given = features[task.pool], task_classes(task, pools[task.pool]), task_split(task, pools[task.pool])
            row: dict[str, Any] = {"task": task.name, "metric": task.metric}
            usual = probes.PATH_TOLERANCE, probes.PATH_STEPS
            for name, path in (("usual", usual), ("exact", (usual[0] / 100, 100 * usual[1]))):
                probes.PATH_TOLERANCE, probes.PATH_STEPS = path
                start = time.perf_counter()
                found = probes.logistic_probe(*given, grid, task.metric)
                row |= {f"{name}_seconds": time.perf_counter() - start, f"{name}_penalty": found.weight}
                row |= {name: getattr(found, task.metric), "n": len(found.truth)}
            probes.PATH_TOLERANCE, probes.PATH_STEPS = usual
            rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tier", default="laptop", choices=TIERS)
    parser.add_argument("--detectors", action="store_true", help="time them as well")
    parser.add_argument("--information", action="store_true", help="time it as well")
    parser.add_argument("--exact", action="store_true", help="what would exact fits of the path change?")
    options = parser.parse_args()
    run = fit(tier_spec(options.tier))
    pools, grid = tier_pools(options.tier, run.spec.image_size), tier_grid(options.tier)
    backbone = load_backbone(run)
    seconds, features = {}, {}
    for name, pool in pools.items():
        pool.images.sum()  # they are mapped from a file until they are read
        start = time.perf_counter()
        features[name] = extract(backbone, pool.images)
        seconds[f"features of {len(pool.images)} {name}"] = time.perf_counter() - start
    for name in list_tasks():
        start = time.perf_counter()
        try:
            evaluate_features(get_task(name), features[get_task(name).pool], pools[get_task(name).pool], grid)
        except InputError as error:  # as where a small tier has too few images for it
            print(f"{name}: {error}")
        seconds[name] = time.perf_counter() - start
    standard = sum(seconds.values())
    for name in list_tasks(standard=False):
        kind = get_task(name).kind
        if (kind in OF_BACKBONE and options.detectors) or (kind == INFORMATION and options.information):
            start = time.perf_counter()
            rows = evaluate_backbone(backbone, pools, [name], grid)
            seconds[name] = time.perf_counter() - start
            print(rows.to_string(index=False))
    for name, taken in seconds.items():
        print(f"{name:32s} {taken:7.2f} s")
    print(f"{'the standard tasks':32s} {standard:7.2f} s, {torch.get_num_threads()} threads")
    exact = compared(features, pools, grid) if options.exact else []
    if options.json:
        result = {
            "tier": options.tier,
            "standard": standard,
            "seconds": seconds,
            "exact": exact,
            "machine": provenance.hardware(),
            "versions": provenance.versions(),
        }
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
