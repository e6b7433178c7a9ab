"""How invariant each masked subspace of a MAST run is to each augmentation, next to the full space."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from mastlib.augment.pipeline import Pipeline
from mastlib.augment.presets import get_pipeline
from mastlib.errors import refuse
from mastlib.evaluation.masks import read_masks
from mastlib.methods import build_method
from mastlib.methods.base import Method
from mastlib.runs import Run
from mastlib.training import weights_of

BATCH = 256


def trained_method(run: Run, classes: int = 0) -> Method:
    """The method of a finished run with its weights, in eval mode."""
    names = run.info["augmentations"]
    with torch.random.fork_rng(devices=[]):
        method = build_method(run.spec, names, classes)
    method.load_state_dict(weights_of(run, "method"), strict=True)
    return method.eval()


def run_pipeline(run: Run) -> Pipeline:
    """The augmentations that `run` was trained with."""
    return get_pipeline(run.spec.augmentations, run.spec.image_size, run.spec.without)


def embeddings(method: Method) -> Callable[[Tensor], Tensor]:
    """Views `(N, 3, S, S)` -> embeddings `(N, D)` by a method whose projector is told nothing."""
    return lambda views: method.projector(method.features(views), None)[0]


@torch.no_grad()
def variation(
    encode: Callable[[Tensor], Tensor], pipeline: Pipeline, images: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean of (z_j - z'_j)^2 over pairs that differ in one augmentation alone, `(K, D)`, and Var(z_j) over images, `(D,)`.

    z `(N, D)` is what `encode` makes of views of `images` `(N, 3, S, S)`; the crop is shared where it is not the
    augmentation. Both in float64.
    """
    squared = []
    spread = []
    for name in pipeline.names:
        draw = torch.Generator().manual_seed(seed)
        alone = {other: float(other == name) for other in pipeline.names}
        total = torch.zeros((), dtype=torch.float64)
        for part in images.split(BATCH):
            views = pipeline.views(part, "isolate_one", draw, crop_redrawn=0.0, weights=alone)
            z1, z2 = (encode(view).double() for view in views.images)
            total = total + (z1 - z2).square().sum(dim=0)
            spread.append(z1)
        squared.append(total / len(images))
    return torch.stack(squared), torch.cat(spread).var(dim=0)


def invariance(run: Run, images: Tensor, seed: int = 0) -> pd.DataFrame:
    """Relative variation under each augmentation (columns) of each subspace and of the full space (rows): 0 is invariant.

    sum_j m_kj^2 E[(z_j - z'_j)^2] / (2 sum_j m_kj^2 Var(z_j)), 1 where two views are as unlike as two images. `images`
    `(N, 3, S, S)`. Raises InputError for a run without masks on the embedding.
    """
    if (run.spec.awareness, run.spec.mask_on) != ("mast", "embedding"):
        raise refuse("run", run.id, "a run with awareness = 'mast' and mask_on = 'embedding'")
    pipeline = run_pipeline(run)
    squared, spread = variation(embeddings(trained_method(run)), pipeline, images, seed)
    weights = read_masks(run).double().square()
    rows = {name: weights[k] for k, name in enumerate(pipeline.names)} | {
        "full space": torch.ones(weights.shape[1]).double()
    }
    values = {row: (squared @ w / (2 * (spread @ w))).tolist() for row, w in rows.items()}
    return pd.DataFrame.from_dict(values, orient="index", columns=list(pipeline.names))


def pixel_variation(pipeline: Pipeline, images: Tensor, seed: int = 0) -> pd.Series:
    """`invariance` of the pixels themselves: how much there is to be invariant to, by augmentation. `images` `(N, 3, S, S)`."""
    squared, spread = variation(lambda views: views.flatten(1), pipeline, images, seed)
    return pd.Series((squared.sum(dim=1) / (2 * spread.sum())).tolist(), index=list(pipeline.names))


def own(table: pd.DataFrame) -> pd.DataFrame:
    """What `invariance` says of each augmentation's own subspace; variation is taken relative to the full space's.

    `of_row`: whether the subspace is more invariant to it than to any other; `of_column`: whether no other subspace is more
    invariant to it; `ratio`: its relative variation there, below 1 where the subspace is more invariant than the full space.
    """
    relative = table.drop("full space") / table.loc["full space"]
    names = list(table.columns)
    return pd.DataFrame(
        {
            "of_row": [relative.loc[name].idxmin() == name for name in names],
            "of_column": [relative[name].idxmin() == name for name in names],
            "ratio": [relative.loc[name, name] for name in names],
        },
        index=names,
    )
