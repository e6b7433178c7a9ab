"""Losses: pure functions on embeddings, scaled as the papers' official code scales them.

Symbols: Z, Z' `(N, D)` embeddings of two views; D_ij = Z_ij - Z'_ij; S(z_j) = sqrt(Var(z_j) + eps); C the sample covariance;
m_k >= 0 `(D,)` the mask of augmentation k, rows of M `(K, D)`. cos is the cosine of two rows. In a run of several processes the
terms that compare rows with each other see the rows of all processes (`distributed.gather`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mastlib.distributed import gather, world

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
    every1, every2 = gather(z1), gather(z2)
    parts = {
        "invariance": invariance(z1, z2),
        "variance": (variance(every1) + variance(every2)) / 2,
        "covariance": covariance(every1) + covariance(every2),
    }
    lam, mu, nu = weights
    loss = lam * parts["invariance"] + mu * parts["variance"] + nu * parts["covariance"]
    return {"loss": loss, **parts}


def cosines(rows: Tensor, others: Tensor, weights: Tensor | None = None) -> Tensor:
    """cos of every row `(N, D)` and every other `(M, D)`, `(N, M)`; with `weights` `(N, D)` >= 0 in row i's own inner
    product <a, b>_i = sum_j w_ij a_j b_j, which is what is left of both where a mask sqrt(w_i) is laid on them."""
    if weights is None:
        return functional.normalize(rows, dim=1) @ functional.normalize(others, dim=1).T
    weighted = weights * rows
    length = (weighted * rows).sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
    return weighted @ others.T / length / (weights @ others.square().T).clamp(min=1e-12).sqrt()


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.2, weights: Tensor | None = None) -> Tensor:
    """SimCLR: -log exp(cos(z_i, z_p(i)) / T) / sum over j != i of exp(cos(z_i, z_j) / T), mean of both views: `(N,)`.

    `z1`, `z2` `(N, D)`, row i of the one the positive of row i of the other; the negatives are all other rows of all
    processes. `weights` `(N, D)`: as in `cosines`, image i's for both its views. Source: Chen et al. (ICML 2020), eq. 1.
    """
    every = torch.cat([gather(z1), gather(z2)])  # (2 R N, D)
    both = None if weights is None else torch.cat([weights, weights])
    logits = cosines(torch.cat([z1, z2]), every, both) / temperature
    rank, processes = world()
    own = torch.arange(len(z1), device=z1.device) + rank * len(z1)
    first, second = own, own + processes * len(z1)
    logits = logits.scatter(1, torch.cat([first, second])[:, None], -torch.inf)  # a row is not its own negative
    return functional.cross_entropy(logits, torch.cat([second, first]), reduction="none").view(2, -1).mean(dim=0)


def info_nce(
    query: Tensor, keys: Sequence[Tensor], queue: Tensor, temperature: float = 0.2, weights: Tensor | None = None
) -> Tensor:
    """MoCo: -log exp(cos(q, k_0) / T) / sum over all keys k_j and the queue's rows n of exp(cos(q, .) / T): `(N,)`.

    `query` and each of `keys` `(N, D)`, the first the positive and any others negatives of their own image only; `queue`
    `(Q, D)`; no gradient flows to keys or queue. `weights` `(N, D)`: as in `cosines`. Source: He et al. (CVPR 2020), eq. 1.
    """
    own = [_rowwise_cosine(query, key.detach(), weights) for key in keys]
    logits = torch.cat([torch.stack(own, dim=1), cosines(query, queue.detach(), weights)], dim=1) / temperature
    return -functional.log_softmax(logits, dim=1)[:, 0]


def _rowwise_cosine(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return functional.cosine_similarity(a, b, dim=1)
    lengths = (weights * a * a).sum(dim=1) * (weights * b * b).sum(dim=1)
    return (weights * a * b).sum(dim=1) / lengths.clamp(min=1e-24).sqrt()


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """-cos(p_i, z_i), mean over rows; no gradient flows to the target. `(N, D)` each. Source: Chen and He (CVPR 2021), eq. 1."""
    return -functional.cosine_similarity(prediction, target.detach(), dim=1).mean()


def barlow_twins(z1: Tensor, z2: Tensor, redundancy_weight: float = 0.0051) -> dict[str, Tensor]:
    """sum_i (1 - C_ii)^2 + lambda sum over i != j of C_ij^2, C `(D, D)` the correlation of the views' dimensions.

    `z1`, `z2` `(N, D)`; standardised over the batch by its own mean and (biased) deviation, as the batch-norm without scale
    that ends the official code's projector. Returns scalars `loss`, `invariance`, `redundancy` (the second sum, unweighted).
    Source: Zbontar et al. (ICML 2021), eq. 1.
    """
    u1, u2 = (functional.batch_norm(gather(z), None, None, training=True) for z in (z1, z2))
    correlation = u1.T @ u2 / len(u1)
    diagonal = correlation.diagonal()
    invariance_term = (1 - diagonal).square().sum()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    loss = invariance_term + redundancy_weight * redundancy
    return {"loss": loss, "invariance": invariance_term, "redundancy": redundancy}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log softmax(logits)_y over the rows that have a label y >= 0, of all processes; 0 where none has.

    `logits` `(N, C)`, `labels` `(N,)` long, -1 for none. With the mean over processes that data-parallel training takes of
    gradients, every labelled row of the global batch counts alike, however they are spread.
    """
    summed = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    labelled = gather((labels >= 0).to(logits.dtype)).sum()
    return summed * world()[1] / labelled.clamp(min=1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments `(N, P)` of rows to prototypes, each row summing to 1 and all prototypes used alike, from `scores` `(N, P)`.

    Q = exp(scores / eps), its columns and rows rescaled in turn to equal sums (Sinkhorn and Knopp 1967), over the rows of all
    processes. Source: Caron et al. (NeurIPS 2020), section 3.1 and the authors' code.
    """
    every = gather(scores) / epsilon
    assignment = torch.exp(every - every.max())  # a common factor cancels, an overflow would not
    for _ in range(iterations):
        assignment = assignment / assignment.sum(dim=0) / assignment.shape[1]
        assignment = assignment / assignment.sum(dim=1, keepdim=True) / len(assignment)
    start = world()[0] * len(scores)
    return assignment[start : start + len(scores)] * len(assignment)


def swav(
    scores1: Tensor, scores2: Tensor, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3
) -> Tensor:
    """Each view predicts the other's assignment: mean over both directions of -sum_p Q_p log softmax(scores / T)_p.

    `scores` `(N, P)` are the cosines of embeddings and prototypes; Q by `sinkhorn`, without gradient. Source: Caron et al.
    (NeurIPS 2020), eq. 2; mean of the two terms, as in the authors' code.
    """
    terms = []
    for source, other in ((scores1, scores2), (scores2, scores1)):
        assignment = sinkhorn(source.detach(), epsilon, iterations)
        terms.append(-(assignment * functional.log_softmax(other / temperature, dim=1)).sum(dim=1).mean())
    return (terms[0] + terms[1]) / 2


def subspace_variance(z: Tensor, masks: Tensor) -> Tensor:
    """`variance(m_k * Z)` of every subspace at once, `(K,)`: S(m_j z_j) = sqrt(m_j^2 Var(z_j) + eps)."""
    return torch.relu(1 - torch.sqrt(masks.square() * z.var(dim=0) + EPS)).mean(dim=1)


def chosen_variance(z: Tensor, masks: Tensor) -> Tensor:
    """`subspace_variance` where masks are zeros and ones, linear in them, `(K,)`.

    Its derivative by an entry is then what choosing that dimension changes; that of m^2 is 0 where m is, for ever.
    """
    on, off = torch.relu(1 - std(z)), 1 - EPS**0.5
    return (masks * on + (1 - masks) * off).mean(dim=1)


def subspace_covariance(z: Tensor, masks: Tensor, power: int = 2) -> Tensor:
    """`covariance(m_k * Z)` of every subspace at once, `(K,)`, from one full-space covariance.

    c(m_k * Z) = (1/D) q' (C_off o C_off) q with q = m_k^2, because Cov(m_i z_i, m_j z_j) = m_i m_j C_ij: no K-fold cost.
    `power` 1: q = m_k, the same where masks are zeros and ones, with a derivative as in `chosen_variance`.
    """
    q = masks**power
    return ((q @ squared_offdiagonal_covariance(z)) * q).sum(dim=1) / z.shape[1]


def weighted_mismatch(z1: Tensor, z2: Tensor, weights: Tensor) -> Tensor:
    """Each image's mismatch (1/D) sum_j w_ij D_ij^2, `(N,)`; `weights` `(N, D)`, for MAST powers of the masks."""
    return (weights * (z1 - z2).square()).mean(dim=1)


def means_over(rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Means of `rows` `(N, D)` over those that each column of `chosen` `(N, K)` bool chooses, `(K, D)`, and counts `(K,)`.

    Over the rows of all processes, with gradient; 0 where a column chooses none.
    """
    rows, chosen = gather(rows), gather(chosen.to(rows.dtype))
    counts = chosen.sum(dim=0)
    return chosen.T @ rows / counts.clamp(min=1)[:, None], counts


def untold(squared: Tensor, outside: Tensor, spoken: Tensor, least: float) -> Tensor:
    """Mean over augmentations k of (1/D) sum_j o_kj max(0, least - s_kj): what shall tell two views apart and does not.

    o_kj is the mean of `outside` `(N, D)` and s_kj^2 of `squared` `(N, D)` / 2, the views' squared differences, over the pairs
    that speak of k, `spoken` `(N, K)`; augmentations without a pair are left out. s is a dimension's deviation where both views
    are as unlike as two images. Ours, after VICReg's variance term.
    """
    means, counts = means_over(squared, spoken)
    short = (means_over(outside, spoken)[0] * torch.relu(least - torch.sqrt(means / 2 + EPS))).mean(dim=1)
    return short[counts > 0].sum() / (counts > 0).sum().clamp(min=1)


def group_means(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean of `values` `(N,)` within each group, `groups` `(N,)` long in [0, n_groups) -> `(n_groups,)`, 0 if empty.

    Over the rows of all processes, with gradient.
    """
    values, groups = gather(values), gather(groups)
    sums = torch.zeros(n_groups, dtype=values.dtype, device=values.device).index_add(0, groups, values)
    return sums / torch.bincount(groups, minlength=n_groups).clamp(min=1)


def mean_per_group(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean over the groups present of `group_means`: `values` `(N,)`, `groups` `(N,)` long -> scalar."""
    return group_means(values, groups, n_groups).sum() / len(gather(groups).unique())


def excess_std(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, S(z_j) - 1): pins the scale that VICReg bounds only from below.

    Without it z -> a z, m -> m / a leaves every masked term as it is while a penalty on the masks vanishes
    (our reconstruction's `scale_fix`; not in the MAST text at hand).
    """
    return torch.relu(std(z) - 1).mean()
