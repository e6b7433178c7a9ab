"""Losses: pure functions on embeddings, scaled as the papers' official code scales them.

Symbols: Z, Z' `(N, D)` embeddings of two views; D_ij = Z_ij - Z'_ij; S(z_j) = sqrt(Var(z_j) + eps); C the sample covariance;
m_k >= 0 `(D,)` the mask of augmentation k, rows of M `(K, D)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # inside the square root of the standard deviation (Bardes et al. 2022, section 4.1)


def std(z: Tensor) -> Tensor:
    """S(z_j) = sqrt(Var(z_j) + eps) of each dimension, sample variance: `(N, D) -> (D,)`."""
    return torch.sqrt(z.var(dim=0) + EPS)


def squared_offdiagonal_covariance(z: Tensor) -> Tensor:
    """C_ij^2 off the diagonal, 0 on it, C the sample covariance: `(N, D) -> (D, D)`."""
    z = z - z.mean(dim=0)
    squared = (z.T @ z / (len(z) - 1)).square()
    return squared - torch.diag(squared.diagonal())


def invariance(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean of D_ij^2 over images and dimensions (the official code's scale; the paper's text sums over dimensions)."""
    return (z1 - z2).square().mean()


def variance(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - S(z_j)) (Bardes et al. 2022, eq. 1)."""
    return torch.relu(1 - std(z)).mean()


def covariance(z: Tensor) -> Tensor:
    """(1/D) sum over i != j of C_ij^2 (Bardes et al. 2022, eq. 3 and 4)."""
    return squared_offdiagonal_covariance(z).sum() / z.shape[1]


def vicreg(z1: Tensor, z2: Tensor, weights: tuple[float, float, float] = (25.0, 25.0, 1.0)) -> dict[str, Tensor]:
    """VICReg: lam * invariance + mu * mean of the views' variance terms + nu * sum of their covariance terms.

    `weights` = (lam, mu, nu). Scaled as the official code: the two variance terms are averaged, the two covariance terms
    summed. Embeddings `(N, D)`; returns scalars `loss`, `invariance`, `variance`, `covariance` (the parts unweighted).
    Source: Bardes et al. 2022, section 4.1 and the authors' published training script.
    """
    parts = {
        "invariance": invariance(z1, z2),
        "variance": (variance(z1) + variance(z2)) / 2,
        "covariance": covariance(z1) + covariance(z2),
    }
    lam, mu, nu = weights
    loss = lam * parts["invariance"] + mu * parts["variance"] + nu * parts["covariance"]
    return {"loss": loss, **parts}


def subspace_variance(z: Tensor, masks: Tensor) -> Tensor:
    """`variance(m_k * Z)` of every subspace at once, `(K,)`: S(m_j z_j) = sqrt(m_j^2 Var(z_j) + eps)."""
    return torch.relu(1 - torch.sqrt(masks.square() * z.var(dim=0) + EPS)).mean(dim=1)


def subspace_covariance(z: Tensor, masks: Tensor) -> Tensor:
    """`covariance(m_k * Z)` of every subspace at once, `(K,)`, from one full-space covariance.

    c(m_k * Z) = (1/D) q' (C_off o C_off) q with q = m_k^2, because Cov(m_i z_i, m_j z_j) = m_i m_j C_ij: no K-fold cost.
    """
    q = masks.square()
    return ((q @ squared_offdiagonal_covariance(z)) * q).sum(dim=1) / z.shape[1]


def subspace_mismatch(z1: Tensor, z2: Tensor, weights: Tensor, changed: Tensor) -> Tensor:
    """Each image's mismatch in the subspace of its own augmentation: (1/D) sum_j w_kj D_ij^2 with k = changed_i, `(N,)`.

    `weights` `(K, D)` are powers of the masks; `changed` `(N,)` long, the augmentation in which image i's views differ.
    """
    return (weights[changed] * (z1 - z2).square()).mean(dim=1)


def group_means(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean of `values` `(N,)` within each group, `groups` `(N,)` long in [0, n_groups) -> `(n_groups,)`, 0 if empty."""
    sums = torch.zeros(n_groups, dtype=values.dtype, device=values.device).index_add(0, groups, values)
    return sums / torch.bincount(groups, minlength=n_groups).clamp(min=1)


def mean_per_group(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean over the groups present of the groups' means: `values` `(N,)`, `groups` `(N,)` long -> scalar."""
    return group_means(values, groups, n_groups).sum() / len(groups.unique())


def excess_std(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, S(z_j) - 1): pins the scale that VICReg bounds only from below.

    Without it z -> a z, m -> m / a leaves every masked term as it is while a penalty on the masks vanishes
    (our reconstruction's `scale_fix`; not in the MAST text at hand).
    """
    return torch.relu(std(z) - 1).mean()
