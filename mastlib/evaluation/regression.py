"""Regression from frozen features: ridge, and ridge on an RBF kernel, penalties chosen by validation; boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mastlib.errors import InputError, check_int
from mastlib.evaluation.design import L2_GRID, SPLITS, Design, check_grid, split_rows

#: Of Causal3DIdent's regressions: the penalty, and the kernel's width in exp(-gamma |x - x'|^2) of standardised features.
KERNEL_ALPHAS: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
KERNEL_GAMMAS: tuple[float, ...] = tuple(10.0**power for power in range(-5, 3))
AT_ONCE = 512  # images that a kernel is evaluated on at once
KERNEL_IMAGES = 1536  # fitted on; a sixth of them to choose by, since the time goes with the cube


@dataclass(frozen=True)
class RidgeResult:
    """A tested regression. `r2` per output and their mean `mean_r2` (at most 1; 0: as good as the mean of train+val) on
    `n_test` images; `alpha` is the chosen penalty, `gamma` the kernel's if there is one, `path` the validation mean R^2 of
    each penalty, with its best gamma. `rows` `(n_test,)` are the tested images, `predicted` and `truth` `(n_test, T)` what was
    said of them and what is so; `mean` `(T,)` is that of the images fitted on."""

    r2: tuple[float, ...]
    mean_r2: float
    alpha: float
    n_test: int
    path: dict[float, float]
    rows: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    gamma: float | None = None


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
    y, (train, val, test) = _targets(features, targets, split)
    grid = torch.tensor(check_grid("alphas", alphas), dtype=torch.float64, device=features.device)
    said = _ridge(features[train], y[train], features[val], grid)
    path = {
        alpha: float(r2(values, y[val], y[train].mean(0)).mean())
        for alpha, values in zip(grid.tolist(), said, strict=True)
    }
    best = max(path, key=lambda alpha: path[alpha])
    both = torch.cat([train, val])
    predicted = _ridge(features[both], y[both], features[test], grid.new_tensor([best]))[0]
    return ridge_result(predicted, y[test], y[both].mean(0), best, path, test)


def kernel_probe(
    features: Tensor,
    targets: Tensor | np.ndarray,
    split: Sequence[object] | np.ndarray | pd.Series,
    alphas: Sequence[float] = KERNEL_ALPHAS,
    gammas: Sequence[float] = KERNEL_GAMMAS,
    images: int = KERNEL_IMAGES,
) -> RidgeResult:
    """Ridge on an RBF kernel from standardised `features` `(M, D)` to `targets` `(M, T)`, tested on images that chose nothing.

    y(x) = m + sum_i a_i exp(-gamma |x - x_i|^2), (K + alpha I) a = y - m, m their mean. alpha and gamma are chosen by the mean R^2
    on "val" of fits on `images` / 6 of "train" (of equals the smallest), then it is fitted on `images` of train+val; both evenly
    over what there is. float64. Rows with a NaN are left out. Raises InputError as `ridge_probe`.
    Source: ssl-invariances (Ericsson et al. 2021), Causal3DIdent: its grids, on 20,480 images with five folds and no intercept.
    """
    y, (train, val, test) = _targets(features, targets, split)
    check_int("images", images, 8)
    few, both = _evenly(train, images // 6), _evenly(torch.cat([train, val]), images)
    found: dict[tuple[float, float], float] = {}
    design = Design(features[few], True, False, torch.float64)  # turned, which leaves distances as they are
    distances = torch.cdist(design.x, torch.cat([design.x, design.rotate(features[val])])).square()
    mean = y[few].mean(0)
    for gamma in check_grid("gammas", gammas):
        kernel = torch.exp(-gamma * distances)
        for alpha in check_grid("alphas", alphas):
            solved = _solve(kernel[:, : len(few)], y[few] - mean, alpha)
            found[alpha, gamma] = float(r2(mean + kernel[:, len(few) :].T @ solved, y[val], mean).mean())
    alpha, gamma = max(found, key=lambda pair: found[pair])
    design, mean = Design(features[both], True, False, torch.float64), y[both].mean(0)
    solved = _solve(_kernel(design.x, design.x, gamma), y[both] - mean, alpha)
    parts = [_kernel(design.rotate(part), design.x, gamma) @ solved for part in features[test].split(AT_ONCE)]
    predicted = mean + torch.cat(parts)
    path = {tried: max(score for pair, score in found.items() if pair[0] == tried) for tried, _ in found}
    return replace(ridge_result(predicted, y[test], mean, alpha, path, test), gamma=gamma)


def _solve(kernel: Tensor, y: Tensor, alpha: float) -> Tensor:
    """(K + alpha I)^-1 y."""
    penalised = kernel + alpha * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    return torch.cholesky_solve(y, torch.linalg.cholesky(penalised))


def _kernel(x: Tensor, others: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |x_i - x'_j|^2), `(n, m)`."""
    return torch.cdist(x, others).square_().mul_(-gamma).exp_()


def _evenly(rows: Tensor, count: int) -> Tensor:
    """At most `count` of `rows`, evenly over them."""
    return rows if count >= len(rows) else rows[torch.linspace(0, len(rows) - 1, count).long()]


def _targets(
    features: Tensor, targets: Tensor | np.ndarray, split: Sequence[object] | np.ndarray | pd.Series
) -> tuple[Tensor, list[Tensor]]:
    """Targets `(M, T)` float64, and the rows of each split whose targets are all known."""
    y = torch.tensor(np.array(targets, dtype=np.float64), device=features.device)
    if y.ndim != 2 or len(y) != len(features):
        raise InputError(f"targets of shape {tuple(y.shape)} cannot be used; accepted: ({len(features)}, T)")
    rows = split_rows(split, y.isfinite().all(1).cpu().numpy())
    return y, [rows[name] for name in SPLITS]


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x0, y0, x1, y1) `(n, 4)`, pair by pair, `(n,)`; 0 for a box without area."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).clip(min=0).prod(axis=1) for each in (boxes, others)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def ridge_result(
    predicted: Tensor, truth: Tensor, mean: Tensor, alpha: float, path: dict[float, float], rows: Tensor
) -> RidgeResult:
    """What `predicted` `(n, T)` of `truth` `(n, T)` comes to."""
    found = r2(predicted, truth, mean)
    return RidgeResult(
        tuple(found.tolist()), float(found.mean()), alpha, len(truth), path, rows=rows.cpu().numpy(),
        predicted=predicted.cpu().numpy(), truth=truth.cpu().numpy(), mean=mean.cpu().numpy(),
    )  # fmt: skip


def r2(predicted: Tensor, truth: Tensor, mean: Tensor) -> Tensor:
    """1 - sum (y - prediction)^2 / sum (y - m)^2 of each output, `(T,)`. Raises InputError for one that does not vary."""
    total = (truth - mean).square().sum(0)
    if (total <= 0).any():
        raise InputError(f"target {int((total <= 0).nonzero()[0])} has one value only; a regression needs it to vary")
    return 1 - (truth - predicted).square().sum(0) / total


def _ridge(train: Tensor, y: Tensor, held_out: Tensor, alphas: Tensor) -> Tensor:
    """What the ridge fitted with each of `alphas` `(A,)` says of held-out images, `(A, n, T)`."""
    design, mean = Design(train, True, False, torch.float64), y.mean(0)
    moments = design.x.T @ (y - mean)
    solutions = moments / (design.spectrum[:, None] + alphas[:, None, None])  # (A, D, T)
    return mean + design.rotate(held_out) @ solutions
