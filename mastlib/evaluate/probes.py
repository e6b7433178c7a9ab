"""Linear probes on frozen features: multinomial logistic regression and ridge, the penalty chosen by validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import InputError, check_choice, refuse

#: Penalties of the paper's linear evaluation: 45 from 1e-6 to 1e5, ratio 10^0.25 (AugSelf, Lee et al. 2021, appendix).
L2_GRID: tuple[float, ...] = tuple(float(w) for w in np.logspace(-6, 5, 45))
#: Every fourth of them, one a decade: the same range at a quarter of the time.
THIN_GRID: tuple[float, ...] = L2_GRID[::4]
METRICS = ("accuracy", "mean_recall")
SPLITS = ("train", "val", "test")

CONSTANT = 1e-6  # a feature whose deviation is below this share of its size is rounding noise, not to be blown up
PATH_TOLERANCE, PATH_STEPS = 3e-2, 60  # to compare penalties by validation
FINAL_TOLERANCE, FINAL_STEPS = 3e-5, 1000  # for the classifier that is tested; times the root of its images
DOUBT = 2.0  # weaker penalties are tried until validation is this many standard errors below the best


@dataclass(frozen=True)
class ProbeResult:
    """A tested classifier. `accuracy`, `mean_recall` (mean over the classes present in the test split of their recall)
    and `majority` (accuracy of always saying the most frequent class of train+val) are shares in [0, 1] of `n_test`
    images; `weight` is the chosen penalty, `path` the validation metric of each penalty tried; `coefficients`
    `(C, D + 1)` act on the features as the last fit saw them with a 1 appended, a row for each of `classes`."""

    accuracy: float
    mean_recall: float
    majority: float
    weight: float
    n_test: int
    classes: tuple[str, ...]
    path: dict[float, float]
    coefficients: Tensor


@dataclass(frozen=True)
class RidgeResult:
    """A tested regression. `r2` per output and their mean `mean_r2` (at most 1; 0: as good as the mean of train+val) on
    `n_test` images; `alpha` is the chosen penalty, `path` the validation mean R^2 of each."""

    r2: tuple[float, ...]
    mean_r2: float
    alpha: float
    n_test: int
    path: dict[float, float]


class _Design:
    """Features centred and scaled by their own statistics, with a constant column, in the basis where columns are
    uncorrelated: `x` `(n, D + 1)` = standardised rows times `basis`, `spectrum` `(D + 1,)` the eigenvalues of X'X."""

    def __init__(self, features: Tensor, standardise: bool, constant: bool, dtype: torch.dtype) -> None:
        double = features.double()
        self.constant, self.dtype = constant, dtype
        self.mean = double.mean(0) if standardise else torch.zeros_like(double[0])
        spread = double.std(0, correction=0)
        keep = spread > CONSTANT * double.mean(0).abs()
        self.scale = torch.where(keep, spread, torch.inf) if standardise else torch.ones_like(spread)
        rows = self._rows(features)
        values, self.basis = torch.linalg.eigh(rows.T @ rows)
        self.spectrum, self.x = values.clamp(min=0), self.rotate(features)

    def _rows(self, features: Tensor) -> Tensor:
        rows = (features.double() - self.mean) / self.scale
        return F.pad(rows, (0, 1), value=1.0) if self.constant else rows

    def rotate(self, features: Tensor) -> Tensor:
        return (self._rows(features) @ self.basis).to(self.dtype)


def logistic_probe(
    features: Tensor,
    labels: Sequence[object] | np.ndarray | pd.Series,
    split: Sequence[object] | np.ndarray | pd.Series,
    weights: Sequence[float] = L2_GRID,
    metric: str = "accuracy",
    standardise: bool = True,
) -> ProbeResult:
    """Multinomial logistic regression on `features` `(M, D)`, tested on images that chose nothing.

    Minimises sum_i CE(y_i, softmax(W'x_i + b)) + w (|W|^2 + |b|^2): a sum, not a mean, and the bias is penalised (so
    scikit-learn's C = 1/(2w) on features with a constant column). For each penalty w the classifier is fitted on
    "train" and judged on "val" by `metric`; the best (of equals the smallest) is fitted further on train+val and judged
    once on "test". Features are standardised by train, for the last fit by train+val (`standardise=False`: taken raw).

    labels `(M,)`: class names, missing (NaN, None) where an image has none; split `(M,)`: "train", "val", "test",
    anything else is left out. Test images of a class that was not fitted count as errors. The objective is strictly
    convex, so the order does not matter: penalties are tried from strong to weak, each from the solution before, and no
    more once validation has fallen two standard errors, sqrt(p (1 - p) / n) of the best p, below the best.
    Raises InputError for an empty split, fewer than two classes in train, or a bad `weights` or `metric`.
    Source: AugSelf (Lee et al. 2021), linear evaluation; standardising is ours, so that no backbone's scale decides.
    """
    check_choice("metric", metric, METRICS)
    known = ~pd.isna(np.asarray(labels, dtype=object))
    rows = _split_rows(split, known)
    train, val, test = (features[rows[name]] for name in SPLITS)
    names = {name: np.asarray(labels, dtype=object)[rows[name].cpu().numpy()].astype(str) for name in SPLITS}
    classes = np.unique(names["train"])
    if len(classes) < 2:
        raise InputError(f"a classification needs two classes in the train split; labels have {len(classes)}")
    grid = _check_grid("weights", weights)

    design, seen_classes = _Design(train, standardise, True, torch.float32), classes
    truth, held_out = _codes(names["train"], classes, features), design.rotate(val)
    start = torch.zeros(len(classes), design.x.shape[1], device=features.device)
    fitted: dict[float, Tensor] = {}
    path: dict[float, float] = {}
    for weight in reversed(grid):
        fitted[weight] = start = _fit(design, truth, weight, start, PATH_TOLERANCE, PATH_STEPS)
        path[weight] = _judge(_predict(start, held_out, classes), names["val"])[metric]
        top = max(path.values())
        if top - path[weight] > DOUBT * math.sqrt(top * (1 - top) / len(val)):
            break
    path = {weight: path[weight] for weight in sorted(path)}
    best = max(path, key=lambda weight: path[weight])  # the first of equals, in ascending order

    both = np.concatenate([names["train"], names["val"]])
    classes = np.unique(both)
    final = _Design(torch.cat([train, val]), standardise, True, torch.float32)
    start = torch.zeros(len(classes), final.x.shape[1], device=features.device)
    start[np.searchsorted(classes, seen_classes)] = (fitted[best].double() @ design.basis.T @ final.basis).float()
    solution = _fit(
        final, _codes(both, classes, features), best, start, FINAL_TOLERANCE * math.sqrt(len(both)), FINAL_STEPS
    )
    return ProbeResult(
        **_judge(_predict(solution, final.rotate(test), classes), names["test"]),
        majority=majority_accuracy(both, names["test"]),
        weight=best,
        n_test=len(test),
        classes=tuple(classes.tolist()),
        path=path,
        coefficients=(solution.double() @ final.basis.T).float().cpu(),
    )


def majority_accuracy(train: np.ndarray, test: np.ndarray) -> float:
    """Share of `test` labels that equal the most frequent label of `train` (of equals the first in order)."""
    names, counts = np.unique(train, return_counts=True)
    return float((test == names[counts.argmax()]).mean())


def ridge_probe(
    features: Tensor,
    targets: Tensor | np.ndarray,
    split: Sequence[object] | np.ndarray | pd.Series,
    alphas: Sequence[float] = L2_GRID,
) -> RidgeResult:
    """Ridge from standardised `features` `(M, D)` to `targets` `(M, T)`, tested on images that chose nothing.

    Minimises |Y - XW - b|^2 + alpha |W|^2, the intercept free; all penalties from one eigendecomposition in float64.
    Chosen by the mean R^2 on "val" (of equals the smallest alpha), refitted on train+val. R^2 of an output on "test" is
    1 - sum (y - prediction)^2 / sum (y - m)^2, m the mean of the images fitted on. Rows with a NaN are left out.
    Raises InputError for an empty split, a bad `alphas`, or an output that does not vary.
    Source: ssl-invariances (Ericsson et al. 2021), landmark regression; R^2 per output about the training mean.
    """
    y = torch.tensor(np.array(targets, dtype=np.float64), device=features.device)
    if y.ndim != 2 or len(y) != len(features):
        raise InputError(f"targets of shape {tuple(y.shape)} cannot be used; accepted: ({len(features)}, T)")
    rows = _split_rows(split, y.isfinite().all(1).cpu().numpy())
    train, val, test = (rows[name] for name in SPLITS)
    grid = torch.tensor(_check_grid("alphas", alphas), dtype=torch.float64, device=features.device)
    scores = _ridge_r2(features[train], y[train], features[val], y[val], grid).mean(1)
    path = dict(zip(grid.tolist(), scores.tolist(), strict=True))
    best = max(path, key=lambda alpha: path[alpha])
    both = torch.cat([train, val])
    r2 = _ridge_r2(features[both], y[both], features[test], y[test], grid.new_tensor([best]))[0]
    return RidgeResult(tuple(r2.tolist()), float(r2.mean()), best, len(test), path)


def _ridge_r2(train: Tensor, y: Tensor, held_out: Tensor, truth: Tensor, alphas: Tensor) -> Tensor:
    """R^2 `(A, T)` on held-out images of the ridge fitted with each of `alphas` `(A,)`."""
    design, mean = _Design(train, True, False, torch.float64), y.mean(0)
    total = (truth - mean).square().sum(0)
    if (total <= 0).any():
        raise InputError(f"target {int((total <= 0).nonzero()[0])} has one value only; a regression needs it to vary")
    moments = design.x.T @ (y - mean)
    solutions = moments / (design.spectrum[:, None] + alphas[:, None, None])  # (A, D, T)
    return 1 - (truth - mean - design.rotate(held_out) @ solutions).square().sum(1) / total


def _fit(design: _Design, truth: Tensor, weight: float, start: Tensor, tolerance: float, steps: int) -> Tensor:
    """The minimiser `(C, D + 1)` of the penalised cross-entropy in the design's basis, by L-BFGS from `start`.

    In that basis the Hessian's diagonal is close to spectrum * mean p(1 - p) + 2w per class (Böhning 1992), so each
    coordinate is measured in units of its inverse root. Half the squared norm of such a gradient is then close to
    what is left to gain, in nats; the search ends when its largest entry is below `tolerance`.
    """
    x = design.x
    once = F.one_hot(truth, len(start)).T.to(x.dtype).contiguous()  # classes first: short rows would slow every step
    p = torch.softmax(start @ x.T, 0)
    scale = (torch.outer((p * (1 - p)).mean(1), design.spectrum.to(x.dtype)) + 2 * weight).rsqrt()
    point = (start / scale).requires_grad_()

    def objective() -> float:
        solution = point.detach() * scale
        log_p = torch.log_softmax(solution @ x.T, 0)
        loss = -(log_p * once).sum(dtype=torch.float64) + weight * solution.square().sum(dtype=torch.float64)
        point.grad = scale * (log_p.exp_().sub_(once) @ x + 2 * weight * solution)
        return float(loss)

    torch.optim.LBFGS(
        [point], max_iter=steps, tolerance_grad=tolerance, tolerance_change=0, history_size=10,
        line_search_fn="strong_wolfe",
    ).step(objective)  # fmt: skip
    return point.detach() * scale


def _judge(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean over the classes of `truth` of their recall."""
    hits = pd.Series(predicted == truth)
    return {"accuracy": float(hits.mean()), "mean_recall": float(hits.groupby(truth).mean().mean())}


def _predict(solution: Tensor, x: Tensor, classes: np.ndarray) -> np.ndarray:
    return classes[(solution @ x.T).argmax(0).cpu().numpy()]


def _codes(names: np.ndarray, classes: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.searchsorted(classes, names)).to(like.device)


def _split_rows(split: Sequence[object] | np.ndarray | pd.Series, usable: np.ndarray) -> dict[str, Tensor]:
    """Indices of each split's usable images; InputError for a split without any."""
    sides = np.asarray(split, dtype=object)
    if len(sides) != len(usable):
        raise InputError(f"split has {len(sides)} entries and there are {len(usable)} images; they must match")
    rows = {name: torch.from_numpy(np.flatnonzero((sides == name) & usable)) for name in SPLITS}
    empty = [name for name in SPLITS if not len(rows[name])]
    if empty:
        raise InputError(f"split {empty[0]} has no labelled image; a probe needs some in each of {', '.join(SPLITS)}")
    return rows


def _check_grid(name: str, values: Sequence[float]) -> list[float]:
    grid = sorted(float(value) for value in values)
    if not grid or grid[0] <= 0 or not all(map(math.isfinite, grid)):
        raise refuse(name, tuple(values), "one or more positive finite numbers")
    return grid
