"""Linear probes on frozen features: logistic regression of one label or of several, the penalty chosen by validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import InputError, check_choice
from mastlib.evaluation.design import L2_GRID, SPLITS, Design, check_grid, split_rows

METRICS = ("accuracy", "mean_recall")


PATH_TOLERANCE, PATH_STEPS = 0.1, 60  # to compare penalties by validation
FINAL_TOLERANCE, FINAL_STEPS = 2e-4, 1000  # for the classifier that is tested; times the root of its images
DOUBT = 2.0  # weaker penalties are tried until validation is this many standard errors below the best


@dataclass(frozen=True)
class ProbeResult:
    """A tested classifier. `accuracy`, `mean_recall` (mean over the classes present in the test split of their recall)
    and `majority` (accuracy of always saying the most frequent class of train+val) are shares in [0, 1] of `n_test`
    images; `weight` is the chosen penalty, `path` the validation metric of each penalty tried; `coefficients`
    `(C, D + 1)` act on the features as the last fit saw them with a 1 appended, a row for each of `classes`. `rows`
    `(n_test,)` are the tested images, `predicted` and `truth` `(n_test,)` what was said of them and what is so."""

    accuracy: float
    mean_recall: float
    majority: float
    weight: float
    n_test: int
    classes: tuple[str, ...]
    path: dict[float, float]
    coefficients: Tensor
    rows: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class MultilabelResult:
    """Tested labels, several of which an image may have. `mean_ap`: the mean over labels of their average precision, in [0, 1];
    `chance`: that of random scores, the labels' shares of the test images; `weight`, `path` as of ProbeResult; `rows` `(n_test,)`
    are the tested images, `scores` and `truth` `(n_test, C)` their logits and labels, a column for each of `labels`."""

    mean_ap: float
    chance: float
    weight: float
    labels: tuple[str, ...]
    path: dict[float, float]
    rows: np.ndarray
    scores: np.ndarray
    truth: np.ndarray


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
    rows = split_rows(split, known)
    train, val, test = (features[rows[name]] for name in SPLITS)
    names = {name: np.asarray(labels, dtype=object)[rows[name].numpy()].astype(str) for name in SPLITS}
    classes = np.unique(names["train"])
    if len(classes) < 2:
        raise InputError(f"a classification needs two classes in the train split; labels have {len(classes)}")
    grid = check_grid("weights", weights)

    design, seen_classes = Design(train, standardise, True, torch.float32), classes
    truth, held_out = _codes(names["train"], classes, features), design.rotate(val)
    start = torch.zeros(len(classes), design.x.shape[1], device=features.device)

    def judged(solution: Tensor) -> float:
        return judge(_predict(solution, held_out, classes), names["val"])[metric]

    best, fitted, path = _choose(design, truth, grid, start, judged, len(val))

    both = np.concatenate([names["train"], names["val"]])
    classes = np.unique(both)
    final = Design(torch.cat([train, val]), standardise, True, torch.float32)
    start = torch.zeros(len(classes), final.x.shape[1], device=features.device)
    start[np.searchsorted(classes, seen_classes)] = (fitted.double() @ design.basis.T @ final.basis).float()
    solution = _refit(final, _codes(both, classes, features), best, start)
    predicted = _predict(solution, final.rotate(test), classes)
    return ProbeResult(
        **judge(predicted, names["test"]),
        majority=majority_accuracy(both, names["test"]),
        weight=best,
        n_test=len(test),
        classes=tuple(classes.tolist()),
        path=path,
        coefficients=(solution.double() @ final.basis.T).float().cpu(),
        rows=rows["test"].numpy(),
        predicted=predicted,
        truth=names["test"],
    )


def multilabel_probe(
    features: Tensor,
    labels: pd.DataFrame,
    split: Sequence[object] | np.ndarray | pd.Series,
    weights: Sequence[float] = L2_GRID,
    standardise: bool = True,
) -> MultilabelResult:
    """`logistic_probe` for images that may have several labels: a two-class problem for each, all with one penalty.

    Minimises sum_i sum_c BCE(y_ic, sigmoid(W'x_i + b)_c) + w (|W|^2 + |b|^2). labels: a row of bools for each image, a column for
    each label. Chosen by the mean over labels of the average precision on "val" (of equals the smallest w), fitted further on
    train+val, judged once on "test". A label that no test image has, or all have, does not count there.
    Raises InputError as `logistic_probe`, and for a label that train lacks.
    """
    truth = torch.from_numpy(labels.to_numpy(dtype=bool, copy=True))
    rows = split_rows(split, np.ones(len(truth), dtype=bool))
    lacking = [
        str(name) for name, some in zip(labels, truth[rows["train"]].any(dim=0).tolist(), strict=True) if not some
    ]
    if lacking:
        raise InputError(f"label {lacking[0]} is on no image of the train split; a probe needs some")
    train, val, test = (features[rows[name]] for name in SPLITS)
    design = Design(train, standardise, True, torch.float32)
    held_out = design.rotate(val)

    def judged(solution: Tensor) -> float:
        return mean_ap((solution @ held_out.T).T.numpy(), truth[rows["val"]].numpy())

    start = torch.zeros(truth.shape[1], design.x.shape[1])
    best, fitted, path = _choose(design, truth[rows["train"]], check_grid("weights", weights), start, judged, len(val))
    both = torch.cat([rows["train"], rows["val"]])
    final = Design(features[both], standardise, True, torch.float32)
    start = (fitted.double() @ design.basis.T @ final.basis).float()
    solution = _refit(final, truth[both], best, start)
    scores, tested = (solution @ final.rotate(test).T).T.numpy(), truth[rows["test"]].numpy()
    shares = tested.mean(axis=0)
    return MultilabelResult(
        mean_ap=mean_ap(scores, tested),
        chance=float(shares[(shares > 0) & (shares < 1)].mean()),
        weight=best,
        labels=tuple(map(str, labels)),
        path=path,
        rows=rows["test"].numpy(),
        scores=scores,
        truth=tested,
    )


def mean_ap(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of the average precision of `scores` `(n, C)` over the columns of `truth` `(n, C)` that hold both values."""
    mixed = truth.any(axis=0) & ~truth.all(axis=0)
    return float(np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in np.flatnonzero(mixed)]))


def _choose(
    design: Design, truth: Tensor, grid: list[float], start: Tensor, judged: Callable[[Tensor], float], n: int
) -> tuple[float, Tensor, dict[float, float]]:
    """The weight of `grid` whose solution is `judged` best on `n` images (of equals the smallest), the solution, and all that were
    tried: from strong to weak, each from the one before, until two standard errors below the best."""
    fitted: dict[float, Tensor] = {}
    path: dict[float, float] = {}
    for weight in reversed(grid):
        fitted[weight] = start = _fit(design, truth, weight, start, PATH_TOLERANCE, PATH_STEPS)
        path[weight] = judged(start)
        top = max(path.values())
        if top - path[weight] > DOUBT * math.sqrt(top * (1 - top) / n):
            break
    path = {weight: path[weight] for weight in sorted(path)}
    best = max(path, key=lambda weight: path[weight])  # the first of equals, in ascending order
    return best, fitted[best], path


def majority_accuracy(train: np.ndarray, test: np.ndarray) -> float:
    """Share of `test` labels that equal the most frequent label of `train` (of equals the first in order)."""
    names, counts = np.unique(train, return_counts=True)
    return float((test == names[counts.argmax()]).mean())


def _refit(design: Design, truth: Tensor, weight: float, start: Tensor) -> Tensor:
    """`_fit` of the classifier that is tested: nearly, then in coordinates measured there, which are better ones."""
    near = _fit(design, truth, weight, start, PATH_TOLERANCE, PATH_STEPS)
    return _fit(design, truth, weight, near, FINAL_TOLERANCE * math.sqrt(len(truth)), FINAL_STEPS)


def _fit(design: Design, truth: Tensor, weight: float, start: Tensor, tolerance: float, steps: int) -> Tensor:
    """The minimiser `(C, D + 1)` of the penalised cross-entropy in the design's basis, by L-BFGS from `start`.

    truth: classes `(n,)` long, a softmax over them; or labels `(n, C)` bool, a sigmoid for each.

    In that basis the Hessian's diagonal is close to spectrum * mean p(1 - p) + 2w per class (Böhning 1992), so each
    coordinate is measured in units of its inverse root. Half the squared norm of such a gradient is then close to
    what is left to gain, in nats; the search ends when its largest entry is below `tolerance`.
    """
    x = design.x
    several = truth.ndim == 2
    place = truth.to(x.dtype).T.contiguous() if several else truth[None]  # short rows would slow every step
    p = torch.sigmoid(start @ x.T) if several else torch.softmax(start @ x.T, 0)
    scale = (torch.outer((p * (1 - p)).mean(1), design.spectrum.to(x.dtype)) + 2 * weight).rsqrt()
    point = (start / scale).requires_grad_()
    buffer = x.new_empty(len(start), len(x))  # fresh memory at every step would cost as much as the products
    minus = -x.new_ones(1, len(x))

    def objective() -> float:
        solution = point.detach() * scale
        logits = torch.mm(solution, x.T, out=buffer)
        if several:
            loss = (F.softplus(logits) - logits * place).sum(dtype=torch.float64)
            missed = logits.sigmoid_().sub_(place)
        else:
            log_p = torch.log_softmax(logits, 0)
            loss = -log_p.gather(0, place).sum(dtype=torch.float64)
            missed = torch.exp(log_p, out=buffer).scatter_add_(0, place, minus)
        point.grad = scale * (missed @ x + 2 * weight * solution)
        return float(loss + weight * solution.square().sum(dtype=torch.float64))

    torch.optim.LBFGS(
        [point], max_iter=steps, tolerance_grad=tolerance, tolerance_change=0, history_size=10,
        line_search_fn="strong_wolfe",
    ).step(objective)  # fmt: skip
    return point.detach() * scale


def judge(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean over the classes of `truth` of their recall."""
    hits = pd.Series(predicted == truth)
    return {"accuracy": float(hits.mean()), "mean_recall": float(hits.groupby(truth).mean().mean())}


def _predict(solution: Tensor, x: Tensor, classes: np.ndarray) -> np.ndarray:
    return classes[(solution @ x.T).argmax(0).cpu().numpy()]


def _codes(names: np.ndarray, classes: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.searchsorted(classes, names)).to(like.device)
