"""What a MAST run's learned uncertainty is: of each view in each subspace, of pairs beside what they differ by, over training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from mastlib.augment import Pipeline, audit
from mastlib.errors import refuse
from mastlib.evaluation.subspaces import BATCH, run_pipeline, trained_method
from mastlib.methods.base import Method
from mastlib.methods.mast import MAST, PER_DIMENSION, TAU_RANGE
from mastlib.runs import Run

PREDICTED = ("reweight", "gaussian", "gaussian_dims")  # forms whose uncertainty is a variance, fitted by likelihood
PER_IMAGE = (*PREDICTED, "softmax", "moments")  # "task" has one number for each augmentation

Read = Callable[[Tensor], Tensor]


def of_run(run: Run) -> tuple[Read, Pipeline]:
    """Views `(N, 3, S, S)` -> uncertainty `(N, K)` as the finished `run` reads it, see `variances`; and the run's pipeline.

    Raises InputError for a run without an uncertainty of each image.
    """
    method = _method(run, PER_IMAGE)
    return partial(variances, method), run_pipeline(run)


def uncertainties(run: Run, views: Tensor) -> Tensor:
    """Uncertainty `(N, K)` of each of `views` `(N, 3, S, S)`, uint8 or float in [0, 1], in each subspace of `run`, see `variances`.

    Raises InputError as `of_run`.
    """
    read, _ = of_run(run)
    return torch.cat([read(part) for part in views.split(BATCH)])


def over_training(run: Run) -> pd.DataFrame:
    """Rows (augmentation, epoch, loss, uncertainty): how hard each subspace's pairs were as `run` was trained, how unsure it was.

    Of pairs that differ in one augmentation alone: their term of the loss before uncertainty weighs it, and their uncertainty, both
    running means at the steps of an epoch, averaged (`methods.mast.MAST.follow`). A pair has the uncertainty of two views.
    Raises InputError for a run that is no MAST run with isolated pairs and an uncertainty.
    """
    log, start = run.metrics(), "uncertainty_"
    names = [column.removeprefix(start) for column in map(str, log) if column.startswith(start)]
    if not names:
        raise refuse("run", run.id, "a run with awareness = 'mast', isolated pairs and an uncertainty")
    each = [
        log[["epoch", f"loss_{name}", start + name]].set_axis(["epoch", "loss", "uncertainty"], axis=1)
        for name in names
    ]
    return pd.concat(each, keys=names, names=["augmentation"]).reset_index("augmentation").reset_index(drop=True)


@torch.no_grad()
def variances(method: Method, views: Tensor) -> Tensor:
    """exp(r_k) of each of `views` `(N, 3, S, S)` for each subspace k, `(N, K)`: what one view adds to a pair's variance tau.

    In squared units of the embedding where the run's uncertainty is one of PREDICTED; of "softmax" and "moments" only the order
    means something. Of forms with a variance for each dimension: sum_j w_kj exp(r_j) / sum_j w_kj, with w_k the weights that the
    loss gives a pair which differs in k alone. Where masks are on the representation, r_k is read from features masked by w_k.
    """
    aware, weights = _weights(method)
    features = method.features(views)
    inside = aware.on == "representation"
    conditions = [row.expand(len(views), -1) for row in weights] if inside else [None]
    read = [_head(aware, method.projector(features, condition)[1]) for condition in conditions]
    rows = read if inside else read * len(weights)
    if aware.uncertainty not in PER_DIMENSION:
        return torch.stack([row[:, k] for k, row in enumerate(rows)], dim=1)
    dims = torch.ones(len(weights), rows[0].shape[1]) if inside else weights
    return torch.stack([_mean(row, w) for row, w in zip(rows, dims, strict=True)], dim=1)


def _method(run: Run, forms: Sequence[str]) -> Method:
    if run.spec.awareness != "mast" or run.spec.uncertainty not in forms:
        had = f"awareness = {run.spec.awareness!r}, uncertainty = {run.spec.uncertainty!r}"
        raise refuse("run", run.id, f"a MAST run with uncertainty {', '.join(forms)} (this one has {had})")
    return trained_method(run)


def _weights(method: Method) -> tuple[MAST, Tensor]:
    """What knows of augmentations, and its weights `(K, D)` of pairs that differ in one of them alone."""
    assert isinstance(method.aware, MAST)
    masks = method.aware.masks()
    return method.aware, method.aware.weights(masks, torch.eye(len(masks), dtype=torch.bool))


def _head(aware: MAST, hidden: Tensor) -> Tensor:
    assert aware.log_variance is not None
    return aware.log_variance(hidden).exp()


def _mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Mean of `rows` `(N, D)` over dimensions by `weights` `(D,)` or `(N, D)`: `(N,)`."""
    return (rows * weights).sum(dim=1) / weights.expand_as(rows).sum(dim=1).clamp(min=1e-12)


@torch.no_grad()
def mismatches(run: Run, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predicted variance tau and observed squared difference of pairs made for each augmentation, `(N, K)` float64 each.

    For each k a pair of each of `images` `(N, 3, S, S)` that differs in k, and in the crop besides as often as in training.
    Observed: sum_j w_ij (z_ij - z'_ij)^2 / sum_j w_ij with the loss's weights w (ones where masks are on the representation).
    Predicted: exp(r_ik) + exp(r'_ik), clamped as in the loss; of "gaussian_dims" the same mean of each dimension's. The
    likelihood is best where both are equal on average. Batch-norm uses running statistics, where training has the batch's.
    Raises InputError for a run whose uncertainty is not one of PREDICTED.
    """
    method = _method(run, PREDICTED)
    aware, _ = _weights(method)
    masks = aware.masks()
    pipeline = run_pipeline(run)
    columns = []
    for k, name in enumerate(pipeline.names):
        draw = torch.Generator().manual_seed(seed)
        alone = {other: float(other == name) for other in pipeline.names}
        pairs = []
        for part in images.split(BATCH):
            views = pipeline.views(part, "isolate_one", draw, run.spec.crop_redrawn, weights=alone)
            encoded = method.aware.encode(method, views)
            z1, z2 = encoded.embeddings
            weights = aware.weights(masks, audit(views)) if aware.on == "embedding" else torch.ones_like(z1)
            tau = torch.stack([_head(aware, hidden) for hidden in encoded.hidden]).sum(dim=0).clamp(*TAU_RANGE)
            predicted = _mean(tau, weights) if aware.uncertainty in PER_DIMENSION else tau[:, k]
            pairs.append(torch.stack([predicted, _mean((z1 - z2).square(), weights)]).double())
        columns.append(torch.cat(pairs, dim=1))
    predicted, observed = torch.stack(columns, dim=2)
    return predicted, observed
