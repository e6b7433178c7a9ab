"""What a MAST run's learned uncertainty follows: how strongly a view was changed, and which images are hard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mastlib.augment import ColorJitter, Op, Pipeline, audit, get_pipeline
from mastlib.augment.pipeline import Params
from mastlib.errors import check_int, refuse
from mastlib.evaluation.subspaces import BATCH, trained_method
from mastlib.methods.base import Method
from mastlib.methods.mast import MAST, PER_DIMENSION, TAU_RANGE
from mastlib.runs import Run
from mastlib.stats import interval

PREDICTED = ("reweight", "gaussian", "gaussian_dims")  # forms whose uncertainty is a variance, fitted by likelihood
PER_IMAGE = (*PREDICTED, "softmax", "moments")  # "task" has one number for each augmentation

Read = Callable[[Tensor], Tensor]


def of_run(run: Run) -> tuple[Read, Pipeline]:
    """Views `(N, 3, S, S)` -> uncertainty `(N, K)` as the finished `run` reads it, see `variances`; and the run's pipeline.

    Raises InputError for a run without an uncertainty of each image.
    """
    method = _method(run, PER_IMAGE)
    return partial(variances, method), get_pipeline(run.spec.augmentations, run.spec.image_size, run.spec.without)


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


@dataclass(frozen=True)
class Dose:
    """Uncertainty `values` `(N, S, K)` float64 of N images at each of `levels` `(S,)`, in the subspaces `names` (K)."""

    names: tuple[str, ...]
    levels: Tensor
    values: Tensor


@torch.no_grad()
def by_strength(read: Read, pipeline: Pipeline, images: Tensor, steps: int = 5, seed: int = 0) -> dict[str, Dose]:
    """Uncertainty of `images` `(N, 3, S, S)` under each augmentation of `pipeline` alone, the others off, by strength in [0, 1].

    At strength t the parameters are identity + t (end - identity), in `steps` even steps of t, fewer where few integers lie
    between: two for what is either applied or not. end: of each parameter the end of `Op.ranges` that is farther from the
    identity, for each image one by a fair coin where both are as far; the order of the jitter's parts stays as it is.
    `read`, `pipeline`: of `of_run`. Raises InputError for fewer than two steps.
    """
    check_int("steps", steps, 2)
    found = {}
    for op in pipeline.ops:
        generator = torch.Generator().manual_seed(seed)
        whole = torch.tensor([r.whole for r in op.ranges()])
        ends = _ends(op, len(images), generator)
        counts = (ends - op.identity).abs().amax(dim=0)[whole]  # integers from the identity to the end, less one
        levels = torch.linspace(0, 1, min([steps, *(int(n) + 1 for n in counts.tolist() if n)]))
        sets = []
        for t in levels:
            rows = torch.lerp(op.identity.expand_as(ends), ends, t)
            sets.append({op.name: torch.where(whole, rows.round(), rows)})
        found[op.name] = _dose(read, pipeline, images, levels, sets)
    return found


def _ends(op: Op, n: int, generator: torch.Generator) -> Tensor:
    """The farther end of each parameter's range, `(n, p)`."""
    low, high = torch.tensor([(float(r.low), float(r.high)) for r in op.ranges()]).unbind(dim=1)
    below, above = op.identity - low, high - op.identity
    coin = torch.rand(n, len(low), generator=generator) < 0.5
    ends = torch.where(torch.where(torch.isclose(below, above), coin, below > above), low, high)
    if isinstance(op, ColorJitter):
        ends[:, 4] = op.identity[4]  # an order has no strength
    return ends


@torch.no_grad()
def by_count(read: Read, pipeline: Pipeline, images: Tensor, seed: int = 0) -> dict[str, Dose]:
    """Uncertainty of `images` `(N, 3, S, S)` by how many of the pipeline's K operations are applied, 0 to K, as "operations".

    Each image has its own random order of operations, and parameters drawn once as in training (`Op.sample`): a step adds the next
    operation to those before. `read`, `pipeline`: of `of_run`.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(pipeline.ops)
    place = torch.rand(len(images), count, generator=generator).argsort(dim=1)
    drawn = [op.sample(len(images), generator) for op in pipeline.ops]
    sets = [
        {op.name: torch.where(place[:, k, None] < c, drawn[k], op.identity) for k, op in enumerate(pipeline.ops)}
        for c in range(count + 1)
    ]
    return {"operations": _dose(read, pipeline, images, torch.arange(count + 1), sets)}


def _dose(read: Read, pipeline: Pipeline, images: Tensor, levels: Tensor, sets: Sequence[Params]) -> Dose:
    """Uncertainty under each of `sets` of parameters; operations that it does not name are off."""
    off = {op.name: op.identity.expand(len(images), -1) for op in pipeline.ops}
    values = []
    for params in sets:
        parts = []
        for rows in torch.arange(len(images)).split(BATCH):
            views = pipeline.apply(images[rows], {name: row[rows] for name, row in (off | params).items()})
            parts.append(read(views).double())
        values.append(torch.cat(parts))
    return Dose(pipeline.names, levels.double(), torch.stack(values, dim=1))


def curve(doses: Mapping[str, Dose]) -> pd.DataFrame:
    """A row per (varied, subspace, level): mean uncertainty over images with its t interval `low`, `high`, and `n` images."""
    rows = [
        (varied, name, float(level), *interval(dose.values[:, s, k].numpy()))
        for varied, dose in doses.items()
        for k, name in enumerate(dose.names)
        for s, level in enumerate(dose.levels)
    ]
    return pd.DataFrame(rows, columns=["varied", "subspace", "level", "mean", "low", "high", "n"])


def rises(doses: Mapping[str, Dose], shuffles: int = 999, seed: int = 0) -> pd.DataFrame:
    """Does uncertainty rise with the level? A row per (varied, subspace): `spearman`, `within`, `p`, `n` images.

    spearman: rank correlation of level and uncertainty over all views of all images; within: that of each image's own views,
    averaged over images, 1 where every image's uncertainty rises at every step; both 0 where nothing varies. p: share of
    `shuffles` of the levels within each image, and of the true order, whose |spearman| is at least as large. Two-sided.
    Raises InputError for fewer than one shuffle.
    """
    check_int("shuffles", shuffles, 1)
    rows = []
    for varied, dose in doses.items():
        draw = np.random.default_rng(seed)
        n, s, k = dose.values.shape
        levels = np.tile(dose.levels.numpy(), (n, 1))
        pooled = _ranked(dose.values.numpy().reshape(n * s, k), axis=0)
        within = np.einsum("ns,nsk->k", _ranked(levels, axis=1), _ranked(dose.values.numpy(), axis=1)) / n
        ranked = _ranked(levels.ravel(), axis=0).reshape(n, s)
        found = ranked.ravel() @ pooled
        shuffled = np.stack([draw.permuted(ranked, axis=1).ravel() @ pooled for _ in range(shuffles)])
        p = (1 + (np.abs(shuffled) >= np.abs(found) - 1e-12).sum(axis=0)) / (1 + shuffles)
        rows += [(varied, *row, n) for row in zip(dose.names, found, within, p, strict=True)]
    return pd.DataFrame(rows, columns=["varied", "subspace", "spearman", "within", "p", "n"])


def _ranked(values: np.ndarray, axis: int) -> np.ndarray:
    """Ranks along `axis`, centred and of norm one, so that a sum of products is Spearman's correlation; zeros for a constant."""
    ranks = stats.rankdata(values, axis=axis)
    ranks = ranks - ranks.mean(axis=axis, keepdims=True)
    norm = np.linalg.norm(ranks, axis=axis, keepdims=True)
    return ranks / np.where(norm > 0, norm, 1)


def knn_errors(
    features: Tensor, labels: Sequence[object] | np.ndarray | pd.Series, memory: np.ndarray | None = None
) -> np.ndarray:
    """1 where the nearest other image has another label, else 0; NaN where an image has no label. `(M,)`

    features `(M, D)`, nearest by cosine, as `monitors.knn_accuracy`; labels `(M,)`, missing (NaN, None) where there is none.
    `memory` `(M,)` bool: the images that neighbours are looked for in (None: all; `split == "train"`: validation by training).
    Raises InputError where lengths differ or fewer than two labelled images are in `memory`.
    """
    names = np.asarray(labels, dtype=object)
    known = ~pd.isna(names)
    shelf = np.flatnonzero(known if memory is None else known & memory)
    if len(names) != len(features) or len(shelf) < 2:
        raise refuse(
            "labels", f"{len(names)} labels, {len(shelf)} in memory", f"{len(features)}, two or more in memory"
        )
    unit = torch.nn.functional.normalize(features, dim=1)
    place = torch.full((len(names),), -1)
    place[shelf] = torch.arange(len(shelf))
    nearest = []
    for rows in torch.arange(len(names)).split(1024):
        alike = unit[rows] @ unit[shelf].T
        own = place[rows] >= 0
        alike[own, place[rows][own]] = -torch.inf
        nearest.append(alike.argmax(dim=1))
    found = names[shelf][torch.cat(nearest).numpy()]
    return np.where(known, (found != names).astype(float), np.nan)


@dataclass(frozen=True)
class ErrorLink:
    """How uncertainty goes with error over `n` images: Spearman's correlation `spearman` and its two-sided `p`; `auroc`, the
    probability that a wrong image is the more uncertain of a wrong and a right one (NaN for an error that is not 0 or 1); `curve`,
    a row per bin of uncertainty: uncertainty, error (their means), low, high (95% interval of the error), n."""

    spearman: float
    p: float
    auroc: float
    n: int
    curve: pd.DataFrame


def against_error(uncertainty: Tensor | np.ndarray, wrong: Tensor | np.ndarray, bins: int = 10) -> ErrorLink:
    """Is what is uncertain also wrong? `uncertainty` `(N,)` of images against their error `wrong` `(N,)`: 0 or 1, or a size.

    Bins hold equal shares of the images, equal uncertainties together. Their intervals are Wilson's for errors of 0 and 1, else
    Student's. Images whose error is NaN are left out; correlations are NaN where one of both does not vary.
    Raises InputError for shapes that differ, for fewer images than `bins`, and fewer than two bins.
    """
    u, e = _columns(uncertainty, wrong, bins)
    binary = bool(np.isin(e, (0, 1)).all())
    varies = np.ptp(u) > 0 and np.ptp(e) > 0
    spearman, p = stats.spearmanr(u, e) if varies else (np.nan, np.nan)
    auroc = roc_auc_score(e, u) if binary and varies else np.nan
    rows = [
        (u[here].mean(), e[here].mean(), *(_wilson(e[here]) if binary else interval(e[here])[1:3]), int(here.sum()))
        for here in _bins(u, bins)
    ]
    table = pd.DataFrame(rows, columns=["uncertainty", "error", "low", "high", "n"])
    return ErrorLink(float(spearman), float(p), float(auroc), len(u), table)


def _columns(first: Tensor | np.ndarray, second: Tensor | np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64 where the second is known."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape or a.ndim != 1:
        raise refuse("values", f"{a.shape} and {b.shape}", "two of the same shape (N,)")
    known = ~np.isnan(b)
    check_int("bins", bins, 2, max(2, int(known.sum())))
    return a[known], b[known]


def _bins(values: np.ndarray, bins: int) -> list[np.ndarray]:
    """Which of `values` `(N,)` are in each of `bins` equal shares, from low to high; equals share a bin, none is empty."""
    place = ((stats.rankdata(values) - 0.5) * bins // len(values)).astype(int)
    return [place == b for b in np.unique(place)]


def _wilson(wrong: np.ndarray) -> tuple[float, float]:
    found = stats.binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


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
    pipeline = get_pipeline(run.spec.augmentations, run.spec.image_size, run.spec.without)
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


@dataclass(frozen=True)
class Calibration:
    """How predicted variances fit squared differences of `n` pairs; a perfect fit has slope 1, ratio 1 and ence near 0.

    `slope`: of observed on predicted, weighted by 1 / predicted^2, NaN where the prediction does not vary; `ratio` of the means,
    observed / predicted; `ence`: mean over bins of |root observed - root predicted| / root predicted, which chance keeps above 0,
    the more the more bins; `curve`: a row per bin: predicted, observed (means), low, high (95% t interval of observed), n.
    Source of ence: Levi et al. 2022, Sensors 22 (15), 5540.
    """

    slope: float
    ratio: float
    ence: float
    n: int
    curve: pd.DataFrame


def calibration(predicted: Tensor | np.ndarray, observed: Tensor | np.ndarray, bins: int = 10) -> Calibration:
    """Predicted variances against squared differences, `(N,)` each, in the same squared units, by bins of equal shares of pairs.

    Raises InputError as `against_error`, and for predictions that are not above 0.
    """
    p, o = _columns(predicted, observed, bins)
    if not (p > 0).all():
        raise refuse("predicted", float(p.min()), "variances above 0")
    # The deviation of a squared Gaussian difference is proportional to its mean.
    slope = np.polyfit(p, o, 1, w=1 / p)[0] if np.ptp(p) > 0 else np.nan
    rows = [(p[here].mean(), *interval(o[here])) for here in _bins(p, bins)]
    table = pd.DataFrame(rows, columns=["predicted", "observed", "low", "high", "n"])
    ence = ((table["observed"] / table["predicted"]) ** 0.5 - 1).abs().mean()
    return Calibration(float(slope), float(o.mean() / p.mean()), float(ence), len(p), table)
