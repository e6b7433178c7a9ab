"""The search for MAST's settings: many arms, few seeds, judged on validation images by questions that no page reports.

    python benchmarks/search.py --csv outputs/reference/mast-search.csv [--seeds 0 1] [--arms NAME ...]

Questions: which vendor drew it (of concepts kept for validation), and the scene's light, exposure, brightness and
background (ridge), fitted on training and read on validation images; test images take no part. Rows are added to the
CSV as runs finish; what is there is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mastlib.data.pools import Pool
from mastlib.evaluate.features import extract
from mastlib.evaluate.masks import read_masks
from mastlib.evaluate.probes import logistic_probe, ridge_probe
from mastlib.evaluate.subspaces import invariance, own
from mastlib.methods.masks import overlap
from mastlib.models.backbones import build_backbone
from mastlib.runs import Run
from mastlib.spec import RunSpec
from mastlib.study import tier_grid, tier_pools
from mastlib.tiers import tier_spec
from mastlib.training import fit

LATENTS = ("value", "exposure", "light_strength", "background_value")
MAST = {"awareness": "mast", "pairing": "isolate_one", "uncertainty": "none"}
LINEAR = {**MAST, "subspace_loss": "B", "mask_power": 1, "mask_diversity": 5.0, "mask_lr": 10.0}

HARD = {"mask_type": "hard", "mask_diversity": 5.0, "mask_lr": 10.0, "mask_init": 0.5}

CONTRAST = {**MAST, "subspace_loss": "B", "mask_power": 1, "mask_choice": "contrast", "mask_lr": 10.0}

ARMS: dict[str, dict] = {
    "host": {}, "control: same pairs, no masks": {"pairing": "isolate_one"},
    "A soft, power 2": MAST, "A soft, reweight": {**MAST, "uncertainty": "reweight"},
    "A hard, diversity": {**MAST, **HARD, "mask_init": 0.6},
    "A blocks": {**MAST, "mask_type": "blocks"},
    "B linear, diversity": LINEAR, "B linear, diversity, reweight": {**LINEAR, "uncertainty": "reweight"},
    "B random": {**MAST, "subspace_loss": "B", "mask_type": "random"},
    "B blocks": {**MAST, "subspace_loss": "B", "mask_type": "blocks"},
    "B hard, diversity": {**MAST, "subspace_loss": "B", **HARD},
    "B linear, composed": {**LINEAR, "pairing": "composed"}, "B linear, mixed": {**LINEAR, "pairing": "mixed"},
    "B contrast": CONTRAST, "B contrast, reweight": {**CONTRAST, "uncertainty": "reweight"},
    "B contrast, diversity": {**CONTRAST, "mask_diversity": 5.0}, "B contrast, mixed": {**CONTRAST, "pairing": "mixed"},
    "B contrast, composed": {**CONTRAST, "pairing": "composed"},
    "representation, random": {**MAST, "mask_on": "representation", "subspace_loss": "B", "mask_type": "random"},
    "representation, linear": {**LINEAR, "mask_on": "representation"},
}  # fmt: skip


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
            scores["vendor"] = logistic_probe(features, table["vendor"].to_numpy(), split, grid).accuracy
        else:
            for latent in LATENTS:
                scores[latent] = ridge_probe(features, table[[latent]].to_numpy(dtype=float), split).mean_r2
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
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME")
    parser.add_argument("--tier", default="laptop")
    options = parser.parse_args()
    done = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame(columns=["arm", "seed"])
    rows = done.to_dict("records")
    for seed in options.seeds:
        for arm in ["random weights", *options.arms]:
            if ((done["arm"] == arm) & (done["seed"] == seed)).any():
                continue
            spec: RunSpec = tier_spec(options.tier, augmentations="standard5", seed=seed, **ARMS.get(arm, {}))
            pools, grid = tier_pools(options.tier, spec.image_size), tier_grid(options.tier)
            torch.manual_seed(seed)
            backbone, row = build_backbone(spec.backbone, spec.width, spec.stem), {"arm": arm, "seed": seed}
            if arm != "random weights":
                run = fit(spec, progress=False)
                backbone.load_state_dict(run.weights("backbone"))
                row |= {"run_id": run.id, "status": run.info["status"], "knn": run.metrics()["knn"].iloc[-1]}
                row |= measured(run, pools["objects"])
            row |= judged(backbone, pools, grid)
            rows.append(row)
            pd.DataFrame(rows).round(4).to_csv(options.csv, index=False)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
