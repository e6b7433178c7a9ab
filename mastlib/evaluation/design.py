"""What all probes share: penalties, features on one scale, images by split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import InputError, refuse

#: Penalties of the paper's linear evaluation: 45 from 1e-6 to 1e5, ratio 10^0.25 (AugSelf, Lee et al. 2021, appendix).
L2_GRID: tuple[float, ...] = tuple(float(w) for w in np.logspace(-6, 5, 45))
#: Every fourth of them, one a decade: the same range at a quarter of the time.
THIN_GRID: tuple[float, ...] = L2_GRID[::4]
SPLITS = ("train", "val", "test")

CONSTANT = 1e-6  # a feature whose deviation is below this share of its size is rounding noise, not to be blown up


class Design:
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
        values, self.basis = torch.linalg.eigh((rows.T @ rows).double())  # a basis whatever the rounding before
        self.spectrum, self.x = values.clamp(min=0), rows @ self.basis.to(dtype)

    def _rows(self, features: Tensor) -> Tensor:
        rows = ((features.double() - self.mean) / self.scale).to(self.dtype)
        return F.pad(rows, (0, 1), value=1.0) if self.constant else rows

    def rotate(self, features: Tensor) -> Tensor:
        return self._rows(features) @ self.basis.to(self.dtype)


def split_rows(split: Sequence[object] | np.ndarray | pd.Series, usable: np.ndarray) -> dict[str, Tensor]:
    """Indices of each split's usable images; InputError for a split without any."""
    sides = np.asarray(split, dtype=object)
    if len(sides) != len(usable):
        raise InputError(f"split has {len(sides)} entries and there are {len(usable)} images; they must match")
    rows = {name: torch.from_numpy(np.flatnonzero((sides == name) & usable)) for name in SPLITS}
    empty = [name for name in SPLITS if not len(rows[name])]
    if empty:
        raise InputError(f"split {empty[0]} has no labelled image; a probe needs some in each of {', '.join(SPLITS)}")
    return rows


def check_grid(name: str, values: Sequence[float]) -> list[float]:
    grid = sorted(float(value) for value in values)
    if not grid or grid[0] <= 0 or not all(map(math.isfinite, grid)):
        raise refuse(name, tuple(values), "one or more positive finite numbers")
    return grid
