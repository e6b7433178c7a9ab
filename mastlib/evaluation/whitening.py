"""Whitened features: directions in which clean images differ much and those in which they differ little count alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mastlib.errors import InputError, check_float, refuse

SHRINKAGE = 0.01
FULL = "full space"  # all dimensions alike, next to a run's subspaces


@dataclass(frozen=True)
class Whitening:
    """u(x) = (f(x) - mean) matrix, in float64: `mean` (D,), `matrix` (D, D'); D' < D where dimensions are left out.

    `spread` is the mean of |u|^2 over the images that the statistics are from: D' where nothing is shrunk or weighed. Two
    unrelated images are sqrt(2 spread) apart, root mean square.
    """

    mean: Tensor
    matrix: Tensor
    spread: float

    @classmethod
    @torch.no_grad()
    def of(cls, features: Tensor, shrinkage: float = SHRINKAGE, mask: Tensor | None = None) -> Whitening:
        """The whitening of clean images' `features` `(M, D)`: V diag(l')^-1/2 V^T, for their covariance V diag(l) V^T (ddof 1).

        `shrinkage` s in [0, 1] moves every eigenvalue towards their mean, l' = (1 - s) l + s mean(l). With s = 0 the whitened
        covariance is the identity and |u(x) - u(y)|^2 the squared Mahalanobis distance. The default, .01, leaves alone what
        varies much more than a hundredth of the mean and takes the weight from what varies less: a random network's last
        eigenvalues are a millionth of the mean and say nothing but rounding, and with fewer than ten images a dimension the
        smallest ones are estimated far too small.

        `mask` `(D,)`, at least 0: dimensions of weight 0 are left out before whitening, and the others' u is multiplied by the
        weight after it. Weights before it would be whitened away: (m d)^T (m S m)^-1 (m d) = d^T S^-1 d. The symmetric root
        gives the white features that are nearest to the features, so u_j still is about the dimension that the weight is of.

        Raises InputError for features that are not `(M, D)`, M at least 2, finite; that do not vary; whose covariance is
        singular where `shrinkage` is 0; and for a mask of another shape, with a negative weight or with no other than 0.
        Source: Ericsson et al., BMVC 2022 (ssl-invariances), whose code whitens by Cholesky in float32; the shrinkage is ours.
        """
        shrinkage = check_float("shrinkage", shrinkage, 0.0, 1.0)
        if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
            raise refuse("features", tuple(features.shape), "a tensor (M, D) with M at least 2")
        if not features.isfinite().all():
            raise InputError("features that are NaN or infinite cannot be whitened")
        # What the features were rounded to is as little a direction as what the covariance is rounded to.
        rounding = max(torch.finfo(torch.float64).eps, torch.finfo(features.dtype).eps ** 2)
        weights = _check_mask(mask, features.shape[1])
        kept = weights > 0
        chosen = features.double()[:, kept]
        values, vectors = torch.linalg.eigh(torch.atleast_2d(chosen.T.cov(correction=1)))
        largest = float(values[-1])
        # A constant dimension's variance is the rounding of its mean.
        scale = float(chosen.square().mean(dim=0).max())
        if largest <= rounding * max(chosen.shape) * scale:
            raise InputError("features that are the same for every image cannot be whitened")
        rank = int((values > rounding * max(chosen.shape) * largest).sum())
        if shrinkage == 0 and rank < len(values):
            raise refuse(
                "shrinkage",
                shrinkage,
                f"more than 0, since these features vary in {rank} of {len(values)} directions only",
            )
        shrunk = (1 - shrinkage) * values.clamp(min=0) + shrinkage * values.clamp(min=0).mean()
        root = (vectors * shrunk.rsqrt()) @ vectors.T * weights[kept]
        matrix = torch.zeros(len(weights), len(values), dtype=torch.float64, device=features.device)
        matrix[kept] = root
        centred = (chosen - chosen.mean(dim=0)) @ root
        spread = float(centred.square().sum() / (len(centred) - 1))
        return cls(features.double().mean(dim=0), matrix, spread)

    @torch.no_grad()
    def apply(self, features: Tensor) -> Tensor:
        """`features` `(M, D)` whitened, `(M, D')` float64. Raises InputError for another D."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise refuse("features", tuple(features.shape), f"a tensor (M, {len(self.mean)})")
        return (features.double() - self.mean) @ self.matrix


def _check_mask(mask: Tensor | None, dims: int) -> Tensor:
    """Weights `(D,)` in float64: those of `mask`, or ones."""
    if mask is None:
        return torch.ones(dims, dtype=torch.float64)
    weights = mask.detach().double()
    if weights.shape != (dims,):
        raise refuse("mask", tuple(weights.shape), f"a tensor ({dims},)")
    if not weights.isfinite().all() or (weights < 0).any() or not (weights > 0).any():
        raise refuse("mask", f"weights from {weights.min():g} to {weights.max():g}", "finite, at least 0, one above 0")
    return weights


def whiten_subspaces(
    features: Tensor, masks: Tensor, names: Sequence[str], shrinkage: float = SHRINKAGE
) -> dict[str, Whitening]:
    """A Whitening of clean images' `features` `(M, D)` for each row of `masks` `(K, D)`, by name, and the "full space".

    The masks are of the features that are given: `evaluation.masks.read_masks` belongs to the embedding where a run has
    mask_on = "embedding" (`evaluation.subspaces.embeddings` makes it), and to the backbone's features where it is "representation".
    Each subspace is whitened by itself, so a dimension counts as much as it varies apart from the subspace's others only.
    Raises InputError for another number of names than rows, and as `Whitening.of`.
    """
    if masks.ndim != 2 or len(names) != len(masks) or len({*names, FULL}) != len(names) + 1:
        raise refuse(
            "names", list(names), f"different ones, one for each row of masks {tuple(masks.shape)}, none {FULL!r}"
        )
    subspaces = {name: Whitening.of(features, shrinkage, mask) for name, mask in zip(names, masks, strict=True)}
    return subspaces | {FULL: Whitening.of(features, shrinkage)}
