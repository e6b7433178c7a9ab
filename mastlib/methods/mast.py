"""MAST (Huang, Goh, Gu, Susskind; ICLR 2023), reconstructed: the text at hand states ideas, no equation.

What the paper says: one feature space; per augmentation a learnable mask that picks the dimensions in which invariance to it is
modelled; masks may overlap; subspaces are trained jointly; uncertainty in the representation down-weights ambiguous
samples; VICReg's optimisation; masks are dropped at transfer. How each of these is written as a formula here is our choice
and a field of RunSpec, named in brackets below.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mastlib import losses
from mastlib.methods.base import Method
from mastlib.spec import RunSpec

TAU_RANGE = (0.1, 10.0)  # bounds of the pair variance: beyond them a few pairs would rule, or none would count


class MAST(Method):
    """Masked VICReg subspaces, one per augmentation, with per-image uncertainty.

    For image i whose views differ in augmentation k (and in the crop, see `crop_always`), with w_k = m_k^p [mask_power]:

    - mismatch   d_i = (1/D) sum_j w_kj (z_ij - z'_ij)^2
    - uncertainty [uncertainty]: tau_i = exp(r_ik) + exp(r'_ik), r `(N, K)` read linearly from the expander's penultimate
      activations, starting at tau = 1. It is fitted by the likelihood of independent Gaussians, d_i / tau_i + (1/D) sum_j
      w_kj log tau_i (as in Kendall and Gal 2017; Shi and Jain 2019). "reweight": that fit touches r alone, and d_i is
      weighed by 1 / tau_i over its mean within the augmentation, so ambiguous pairs count less and the balance of the
      loss terms stays. "gaussian": d_i is replaced by the likelihood itself; since the best tau is the mismatch, the
      invariance term then grows as 1 / mismatch. "none": all pairs alike.
    - invariance s = mean over augmentations of the mean of d_i over their images
    - [subspace_loss] "A": lam s + mean_k { mu v(m_k Z) + nu c(m_k Z) }, the variance and covariance terms of every subspace;
      "B": lam s + mu v(Z) + nu c(Z), those of the full space, with w_k divided by its mean over dimensions (else an empty
      mask would be best).
    - [scale_fix] "pin_std": + mu mean_j max(0, S(z_j) - 1), so that masks cannot trade scale with the embedding.
    - [mask_sparsity] + eta mu mean of the masks.

    Masks m = sigmoid(b), b `(K, D)` drawn around logit(mask_init) [mask_type "sigmoid"], or all ones ("ones").
    """

    def __init__(self, spec: RunSpec, augmentations: tuple[str, ...]) -> None:
        super().__init__(spec)
        self.augmentations, self.uncertainty = augmentations, spec.uncertainty
        self.mask_power, self.mask_type = spec.mask_power, spec.mask_type
        self.subspace_loss, self.scale_fix, self.sparsity = spec.subspace_loss, spec.scale_fix, spec.mask_sparsity
        count, dim = len(augmentations), spec.expander[-1]
        centre = torch.logit(torch.tensor(spec.mask_init))
        self.mask_logits = nn.Parameter(
            centre + 0.5 * torch.randn(count, dim), requires_grad=spec.mask_type == "sigmoid"
        )
        self.log_variance: nn.Linear | None = None
        if spec.uncertainty != "none":
            self.log_variance = nn.Linear(spec.expander[-2], count)
            nn.init.zeros_(self.log_variance.weight)
            nn.init.constant_(self.log_variance.bias, -torch.log(torch.tensor(2.0)).item())

    def masks(self) -> Tensor:
        """The masks m `(K, D)` in [0, 1], one row per augmentation in the pipeline's order."""
        return torch.sigmoid(self.mask_logits) if self.mask_type == "sigmoid" else torch.ones_like(self.mask_logits)

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        if self.mask_type == "sigmoid":
            yield self.mask_logits

    def objective(self, z1: Tensor, z2: Tensor, h1: Tensor, h2: Tensor, changed: Tensor) -> dict[str, Tensor]:
        lam, mu, nu = self.weights
        masks = self.masks()
        weights = masks**self.mask_power
        if self.subspace_loss == "B":
            weights = weights / weights.mean(dim=1, keepdim=True)
        mismatch = losses.subspace_mismatch(z1, z2, weights, changed)
        parts: dict[str, Tensor] = {}
        if self.log_variance is not None:
            fitted_alone = self.uncertainty == "reweight"
            hidden = [h.detach() if fitted_alone else h for h in (h1, h2)]
            log_variance = torch.stack([self.log_variance(h) for h in hidden])
            tau = log_variance.exp().sum(dim=0).gather(1, changed[:, None]).squeeze(1).clamp(*TAU_RANGE)
            parts["uncertainty"] = tau.detach().mean()
            spread = weights.detach().mean(dim=1)[changed] * tau.log()
            if fitted_alone:
                likelihood = mismatch.detach() / tau + spread
                parts["likelihood"] = losses.mean_per_group(likelihood, changed, len(masks))
                certainty = 1 / tau.detach()
                mismatch = mismatch * certainty / losses.group_means(certainty, changed, len(masks))[changed]
            else:
                mismatch = mismatch / tau + spread
        parts["invariance"] = losses.mean_per_group(mismatch, changed, len(masks))
        if self.subspace_loss == "A":
            v1, v2 = (losses.subspace_variance(z, masks).mean() for z in (z1, z2))
            c1, c2 = (losses.subspace_covariance(z, masks).mean() for z in (z1, z2))
        else:
            v1, v2 = losses.variance(z1), losses.variance(z2)
            c1, c2 = losses.covariance(z1), losses.covariance(z2)
        parts |= {"variance": (v1 + v2) / 2, "covariance": c1 + c2}
        loss = lam * parts["invariance"] + mu * parts["variance"] + nu * parts["covariance"]
        if "likelihood" in parts:
            loss = loss + parts["likelihood"]
        if self.scale_fix == "pin_std":
            parts["excess_std"] = (losses.excess_std(z1) + losses.excess_std(z2)) / 2
            loss = loss + mu * parts["excess_std"]
        if self.sparsity:
            loss = loss + mu * self.sparsity * masks.mean()
        parts["mask_mean"] = masks.detach().mean()
        return {"loss": loss, **parts}


def build(spec: RunSpec, augmentations: tuple[str, ...]) -> MAST:
    """The method of `spec` with one mask for each of the pipeline's `augmentations`."""
    return MAST(spec, augmentations)
