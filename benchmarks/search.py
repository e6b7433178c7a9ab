"""Searches for settings, and for reasons: many arms, judged on validation images by questions that no page reports.

    python benchmarks/search.py mast --csv outputs/reference/mast-search.csv [--seeds 0 1] [--arms NAME ...]
    python benchmarks/search.py cassle --csv outputs/reference/cassle-search.csv

Questions: whether a concept is one that comes in skin tones (people and parts of them), which vendor drew it, and of the scene
its object's brightness, the strength and saturation of its light, and its background's brightness, saturation and
direction (ridge); fitted on training and read on validation concepts. Test images take no part, except in the search of CASSLE,
which chooses nothing: it has the tasks that live on colour besides. Rows are added to the CSV as runs finish; what is
there is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mastlib.data.pools import Pool
from mastlib.evaluation.features import extract
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.probes import logistic_probe
from mastlib.evaluation.regression import ridge_probe
from mastlib.evaluation.rows import evaluate_backbone
from mastlib.evaluation.subspaces import invariance, own
from mastlib.evaluation.tasks import headline
from mastlib.methods.masks import overlap
from mastlib.models.backbones import build_backbone
from mastlib.runs import Run
from mastlib.search import CASSLE_TASKS, QUESTIONS
from mastlib.spec import RunSpec
from mastlib.study import tier_grid, tier_pools
from mastlib.tiers import tier_spec
from mastlib.training import fit

LATENTS = QUESTIONS[2:]  # of the scene; the first two are of the object

MAST: dict = {"awareness": "mast", "pairing": "isolate_one"}
ALONE: dict = {**MAST, "outside_weight": 0.0}  # subspaces of which nothing outside is asked
CONTRAST: dict = {"mask_margin": 0.0}
MIXED: dict = {"awareness": "mast", "pairing": "mixed", "mask_margin": 0.0}

MOCO: dict = {"host": "moco"}
CASSLE: dict = {**MOCO, "awareness": "cassle"}
LONG: dict = {"epochs": 16}

#: What was tried for MAST: arm -> RunSpec fields. Settings not named are the defaults, which are what this search came to.
MAST_ARMS: dict[str, dict] = {
    "host": {},
    "control, isolated pairs": {"pairing": "isolate_one"},
    "control, mixed pairs": {"pairing": "mixed"},
    # Masks alone
    "A, soft masks": {**MAST, "subspace_loss": "A", "mask_power": 2, "mask_init": 0.9, "mask_lr": 1.0, "mask_diversity": 0.0},
    "A, hard masks": {**MAST, "subspace_loss": "A", "mask_type": "hard"},
    "B, random masks": {**ALONE, "mask_type": "random"},
    "B, masks follow the loss": {**ALONE, "mask_choice": "loss"},
    "B, contrast": {**ALONE, **CONTRAST},
    # With what is outside a subspace asked to tell its augmentation
    "outside, random masks": {**MAST, "mask_type": "random"},
    "outside, masks follow the loss": {**MAST, "mask_choice": "loss"},
    "outside, contrast, no likeness term": {**MAST, **CONTRAST, "mask_diversity": 0.0},
    "outside, contrast": {**MAST, **CONTRAST},
    "outside, contrast, margin .05": {**MAST, "mask_margin": 0.05},
    "outside, contrast, margin .1": MAST,
    # Ordinary pairs among the isolated ones
    "mixed": MIXED,
    "mixed, 1 of 4 isolated": {**MIXED, "isolated": 0.25},
    "mixed, 3 of 4 isolated": {**MIXED, "isolated": 0.75},
    "mixed, margin .05": {**MIXED, "mask_margin": 0.05},
    "mixed, margin .1": {**MIXED, "mask_margin": 0.1},
    "mixed, 1 of 4 isolated, margin .1": {**MIXED, "mask_margin": 0.1, "isolated": 0.25},
    # Uncertainty
    "mixed, reweight": {**MIXED, "uncertainty": "reweight"},
    "mixed, margin .05, reweight": {**MIXED, "mask_margin": 0.05, "uncertainty": "reweight"},
    "mixed, margin .1, reweight": {**MIXED, "mask_margin": 0.1, "uncertainty": "reweight"},
    "mixed, softmax": {**MIXED, "uncertainty": "softmax"},
}  # fmt: skip

#: For CASSLE on MoCo, whose defaults stay its authors': why it gains as much, or as little, as it does.
CASSLE_ARMS: dict[str, dict] = {
    "MoCo": MOCO,
    "CASSLE": CASSLE,
    "told of another image": {**CASSLE, "condition_given": "another"},
    "two layers": {**CASSLE, "condition_depth": 2},
    "raw": {**CASSLE, "condition_mode": "raw"},
    "add": {**CASSLE, "condition_mode": "add"},
    "multiply": {**CASSLE, "condition_mode": "multiply"},
    "told of colour alone": {**CASSLE, "condition_on": ("color", "color_diff", "grayscale")},
    "not told of mean colours": {**CASSLE, "condition_on": ("blur", "color", "crop", "grayscale")},
    "MoCo, 16 epochs": {**MOCO, **LONG},
    "CASSLE, 16 epochs": {**CASSLE, **LONG},
    "told of another image, 16 epochs": {**CASSLE, **LONG, "condition_given": "another"},
}  # fmt: skip
SEARCHES = {"mast": MAST_ARMS, "cassle": CASSLE_ARMS}


def judged(backbone: torch.nn.Module, pools: dict[str, Pool], grid: tuple[float, ...]) -> dict[str, float]:
    """The questions' scores on validation images."""
    scores = {}
    for name, pool in pools.items():
        keep = (pool.table["split"] != "test").to_numpy()
        table, features = pool.table[keep], extract(backbone, pool.images[torch.tensor(keep)])
        # Fitted on training concepts, its strength chosen on a fifth of them, read on the validation concepts.
        concepts = table["concept"].astype("category").cat.codes.to_numpy()
        split = np.where(table["split"] == "val", "test", np.where(concepts % 5 == 0, "val", "train"))
        if name == "objects":
            toned = table["concept"].isin(table.loc[table["tone"].notna(), "concept"])
            people = np.where(toned, "people", "other")
            scores["people"] = logistic_probe(features, people, split, grid, "mean_recall").mean_recall
            scores["vendor"] = logistic_probe(features, table["vendor"].to_numpy(), split, grid).accuracy
        else:
            for latent in LATENTS:
                values = table[[latent]].to_numpy(dtype=float)
                if latent == "background_angle":  # in turns
                    values = np.concatenate([np.sin(2 * np.pi * values), np.cos(2 * np.pi * values)], axis=1)
                scores[latent] = ridge_probe(features, values, split).mean_r2
    return scores


def measured(run: Run, pool: Pool) -> dict[str, float]:
    """Of a run with masks on the embedding: how alike rows are, and how often a subspace is the most invariant to its own."""
    if run.spec.awareness != "mast" or run.spec.mask_on != "embedding":
        return {}
    masks = read_masks(run)
    k = len(masks)
    images = pool.images[torch.tensor((pool.table["split"] == "val").to_numpy())][:1024]
    found = own(invariance(run, images))
    return {
        "mask_mean": float(masks.mean()), "mask_binary": float(((masks < 0.1) | (masks > 0.9)).float().mean()),
        "likeness": float((overlap(masks).sum() - k) / (k * (k - 1))),
        "own_of_row": int(found["of_row"].sum()), "own_of_column": int(found["of_column"].sum()), "ratio": found["ratio"].mean(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", choices=SEARCHES)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="of the search's arms (all)")
    parser.add_argument("--tier", default="laptop")
    options = parser.parse_args()
    arms = SEARCHES[options.search]
    if unknown := set(options.arms or []) - set(arms):
        parser.error(f"--arms {', '.join(sorted(unknown))}: known are {', '.join(arms)}")
    done = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame(columns=["arm", "seed"])
    rows = done.to_dict("records")
    for seed in options.seeds:
        for arm in ["random weights", *(options.arms or arms)]:
            if ((done["arm"] == arm) & (done["seed"] == seed)).any():
                continue
            spec: RunSpec = tier_spec(options.tier, augmentations="standard5", seed=seed, **arms.get(arm, {}))
            pools = tier_pools(options.tier, spec.image_size, ["category", "position"])
            grid = tier_grid(options.tier)
            torch.manual_seed(seed)
            backbone, row = build_backbone(spec.backbone, spec.width, spec.stem), {"arm": arm, "seed": seed}
            if arm != "random weights":
                run = fit(spec, progress=False)
                backbone.load_state_dict(run.weights("backbone"))
                row |= {"run_id": run.id, "status": run.info["status"], "knn": run.metrics()["knn"].iloc[-1]}
                row |= measured(run, pools["objects"])
            row |= judged(backbone, pools, grid)
            if options.search == "cassle":  # whose settings stay its authors', so that these choose nothing
                rows_of = headline(evaluate_backbone(backbone, pools, CASSLE_TASKS, grid))
                row |= dict(zip(rows_of["task"], rows_of["value"], strict=True))
            rows.append(row)
            pd.DataFrame(rows).round(4).to_csv(options.csv, index=False)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
