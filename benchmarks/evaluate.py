"""How long a run's tasks take, task by task, features included: the standard ones within 15 s, a detector within 2 minutes.

    python benchmarks/evaluate.py [--json FILE] [--tier laptop] [--detectors] [--information]

Trains VICReg of the tier, or finds it, and scores it; nothing is remembered, and images are rendered, and read, before the
clock starts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from mastlib import provenance
from mastlib.evaluation.features import extract
from mastlib.evaluation.rows import OF_BACKBONE, evaluate_backbone, evaluate_features, load_backbone
from mastlib.evaluation.tasks import INFORMATION, get_task, list_tasks
from mastlib.files import write_text
from mastlib.study import tier_grid, tier_pools
from mastlib.tiers import TIERS, tier_spec
from mastlib.training import fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tier", default="laptop", choices=TIERS)
    parser.add_argument("--detectors", action="store_true", help="time them as well")
    parser.add_argument("--information", action="store_true", help="time it as well")
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
        evaluate_features(get_task(name), features[get_task(name).pool], pools[get_task(name).pool], grid)
        seconds[name] = time.perf_counter() - start
    standard = sum(seconds.values())
    for name in list_tasks(standard=False):
        kind = get_task(name).kind
        if (kind in OF_BACKBONE and options.detectors) or (kind == INFORMATION and options.information):
            start = time.perf_counter()
            found = evaluate_backbone(backbone, pools, [name], grid)
            seconds[name] = time.perf_counter() - start
            print(found.to_string(index=False))
    for name, taken in seconds.items():
        print(f"{name:32s} {taken:7.2f} s")
    print(f"{'the standard tasks':32s} {standard:7.2f} s, {torch.get_num_threads()} threads")
    if options.json:
        result = {
            "tier": options.tier,
            "standard": standard,
            "seconds": seconds,
            "machine": provenance.hardware(),
            "versions": provenance.versions(),
        }
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
