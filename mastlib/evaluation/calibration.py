"""Is what is uncertain also wrong, and by how much? Uncertainty against errors, predicted variances against squared differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mastlib.errors import check_int, refuse
from mastlib.stats import interval


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
