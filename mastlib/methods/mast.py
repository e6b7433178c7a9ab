"""MAST (Huang, Goh, Gu, Susskind; ICLR 2023), reconstructed: the text at hand states ideas, no equation.

What the paper says: one feature space; per augmentation a learnable mask that picks the dimensions in which invariance to it is
modelled; masks may overlap; subspaces are trained jointly; uncertainty in the representation down-weights ambiguous
samples; VICReg's optimisation; masks are dropped at transfer. How each of these is written as a formula here is our choice
and a field of RunSpec, named in brackets below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mastlib import losses
from mastlib.augment.pipeline import Views, audit
from mastlib.distributed import gather
from mastlib.errors import refuse
from mastlib.methods.base import Awareness, Encoded, Method, Parts
from mastlib.methods.masks import LEARNED, Masks, likeness
from mastlib.methods.moco import MoCo
from mastlib.models.heads import Projector
from mastlib.spec import RunSpec

TAU_RANGE = (0.1, 10.0)  # bounds of the pair variance: beyond them a few pairs would rule, or none would count
VARIED_RATE = 0.05  # of running means over pairs: some twenty steps
PER_DIMENSION = ("gaussian_dims", "moments")


class MAST(Awareness):
    """Masked subspaces, one per augmentation, with per-image uncertainty.

    The views of image i differ in a set S_i of the K augmentations (`audit`), and a pair speaks of one of them, the isolated
    one, in "isolate_one" and in each of the K pairs of "isolate_each" [pairing; the crop may differ besides, crop_redrawn],
    of one or, ordinary pairs, of none in "mixed", and of all of S_i in "composed". With masks m_k [mask_type, see `Masks`]
    its weights are w_i = product over k in S_i of m_k^p [mask_power]: an invariance to several can live only where each is
    tolerated. In "plain" every pair is one of every subspace, whatever it differs in, w_i = mean_k m_k^p (an ablation:
    nothing ties a mask to its augmentation).

    On the embedding [mask_on], as VICReg's loss is:

    - mismatch   d_i = (1/D) sum_j w_ij (z_ij - z'_ij)^2
    - uncertainty [uncertainty]: log variances r `(N, K)` are read linearly from the projector's penultimate activations,
      r_i is their mean over what the pair speaks of, and tau_i = exp(r_i) + exp(r'_i), 1 at the start. "gaussian": d_i / tau_i
      + mean_j w_ij log tau_i, the likelihood of independent Gaussians (as in Kendall and Gal 2017; Shi and Jain 2019); the best
      tau is the mismatch, so the term then grows as 1 / mismatch. "reweight": that fit touches r alone, and d_i is weighed by
      1 / tau_i over its mean within the augmentation, so ambiguous pairs count less and the balance of the loss terms stays.
      "gaussian_dims": the likelihood with a variance for each dimension. "softmax": weights exp(-r_i) of mean one, + .01 mean r^2.
      "task": one log variance for each augmentation instead of for each image (Kendall, Gal, Cipolla 2018). "moments":
      (1/D) sum_j w_ij (D_ij^2 + s_ij^2 + s'_ij^2), the mean over Gaussian embeddings, which charges for variance instead
      of discounting (an ablation). "none": all pairs alike.
    - invariance s = mean over augmentations of the mean of d_i over the pairs that speak of them
    - [subspace_loss] "A": lam s + mean_k { mu v(m_k Z) + nu c(m_k Z) }, the variance and covariance terms of every subspace;
      "B": lam s + mu v(Z) + nu c(Z), those of the full space, with w_i divided by its mean over dimensions (else an empty
      mask would be best); "C": A + full_weight times VICReg's loss of the full space; "D": the contrastive loss of a MoCo or
      SimCLR host with the inner product <a, b>_i = sum_j w_ij a_j b_j in place of VICReg's.

    Loss B makes subspaces differ by two further terms:

    - [mask_choice] "loss": masks follow s, in which an easy augmentation hardly speaks and all rows like the same quiet
      dimensions best. "contrast": the loss takes the masks as they are, and they follow lam / D sum_kj m_kj c_kj instead,
      c_kj = V_kj / mean_j V_kj less its mean over k, less a margin [mask_margin], V_kj a running mean of D_ij^2 over pairs that
      differ in k alone: row k leaves out dimensions that vary more under k, relative to other dimensions, than under the other
      augmentations, by the margin or more.
    - [outside_weight, outside_std] + weight mu mean_k (1/D) sum_j (1 - w_kj) max(0, gamma - s_kj): what is outside a pair's
      subspace tells its two views apart. w_kj is the mean of w_ij with p = 1 and s_kj the root of the mean of D_ij^2 / 2 over the
      pairs that speak of k; s is 1 in a dimension of unit variance where the two views are as unlike as two images. Without
      this term nothing asks the rest of the space to differ from a subspace.

    Everywhere:

    - [scale_fix] "pin_std": + mu mean_j max(0, S(z_j) - 1), so that masks cannot trade scale with the embedding.
    - [mask_sparsity] + eta mu mean of the masks;  [mask_diversity] + weight times `likeness` of the masks.

    On the representation [mask_on], the projector reads w_i * y_i of both views, the mismatch and the other terms are those of
    what it makes of it, unmasked.
    """

    def __init__(self, spec: RunSpec, augmentations: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(spec, augmentations, sizes)
        self.augmentations, self.pairing, self.uncertainty = tuple(augmentations), spec.pairing, spec.uncertainty
        self.power, self.subspace_loss, self.on = spec.mask_power, spec.subspace_loss, spec.mask_on
        self.scale_fix, self.sparsity, self.diversity = spec.scale_fix, spec.mask_sparsity, spec.mask_diversity
        self.full_weight, self.temperature = spec.full_weight, spec.temperature
        self.vicreg_weights = (spec.invariance_weight, spec.variance_weight, spec.covariance_weight)
        count, dim = len(augmentations), sizes[0] if self.on == "representation" else sizes[-1]
        self.masks = Masks(spec, count, dim)
        self.contrasted, self.margin, self.outside_std = spec.contrasted, spec.mask_margin, spec.outside_std
        self.outside_weight = spec.outside_weight if spec.subspaces_of_full_space else 0.0
        if self.contrasted:
            self.register_buffer("varied", torch.ones(count, dim))
        if self.masks.kind == "hard":
            self.power = 1  # the same of zeros and ones, but m^2 has no gradient that would turn a dimension on again
        self.log_variance: nn.Linear | None = None
        self.task_variance: nn.Parameter | None = None
        if self.uncertainty == "task":
            self.task_variance = nn.Parameter(torch.zeros(count))
        elif self.uncertainty != "none":
            self.log_variance = nn.Linear(sizes[-2], sizes[-1] if self.uncertainty in PER_DIMENSION else count)
            nn.init.zeros_(self.log_variance.weight)
            nn.init.constant_(self.log_variance.bias, -torch.log(torch.tensor(2.0)).item())
        if self.uncertainty != "none" and self.pairing in ("isolate_one", "isolate_each", "mixed"):
            self.register_buffer("followed", torch.zeros(count, 2))  # 0: no such pair was seen so far

    def follow(self, rows: Tensor, parts: Parts, differing: Tensor) -> Parts:
        """`parts` with the mean of "uncertainty" `(N,)`, and running means of `loss_k` and `uncertainty_k` for each augmentation k.

        Those are over the pairs that differ in k alone, `differing` `(N, K)`, before the first of them over all pairs; the loss
        is `rows` `(N,)`, a pair's own term before its uncertainty weighs it. What is hard, and stays hard, should be what a
        subspace is unsure of.
        """
        told = parts["uncertainty"]
        parts = parts | {"uncertainty": told.mean()}
        if hasattr(self, "followed"):
            running: Tensor = self.followed  # type: ignore[assignment]
            alone = differing & (differing.sum(dim=1, keepdim=True) == 1)
            chosen = torch.cat([alone, torch.ones_like(alone[:, :1])], dim=1)
            means, counts = losses.means_over(torch.stack([rows.detach(), told], dim=1).to(running.dtype), chosen)
            if self.training:
                later = torch.where(running == 0, means[:-1], running.lerp(means[:-1], VARIED_RATE))
                running.copy_(torch.where(counts[:-1, None] > 0, later, running))
            shown = torch.where(running == 0, means[-1], running)
            for name, (loss, uncertainty) in zip(self.augmentations, shown.unbind(), strict=True):
                parts |= {f"loss_{name}": loss, f"uncertainty_{name}": uncertainty}
        return parts

    def contrast(self, squared: Tensor, alone: Tensor) -> Tensor:
        """c `(K, D)` after V has seen `squared` `(N, D)` of pairs that differ in one augmentation `alone` `(N, K)`, or in more."""
        running: Tensor = self.varied  # type: ignore[assignment]
        if self.training:
            means, counts = losses.means_over(squared, alone)
            running.lerp_(torch.where(counts[:, None] > 0, means, running), VARIED_RATE)
        relative = running / running.mean(dim=1, keepdim=True).clamp(min=1e-12)
        return relative - relative.mean(dim=0) - self.margin

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        if self.masks.kind in LEARNED:
            yield self.masks.raw

    def differing(self, views: Views) -> Tensor:
        """S `(N, K)` bool, of isolate_each `(K N, K)`: which augmentations each pair differs in."""
        others = len(views.images) - 1 if self.pairing == "isolate_each" else 1
        return torch.cat([audit(views, 1 + other) for other in range(others)])

    def spoken(self, views: Views) -> Tensor:
        """`(N, K)` bool, of isolate_each `(K N, K)`: which augmentations each pair speaks of."""
        count = len(self.augmentations)
        if self.pairing == "composed":
            return audit(views)
        changed = views.changed
        if self.pairing == "isolate_each":
            changed = torch.arange(count, device=changed.device).repeat_interleave(len(changed))
        return changed[:, None] == torch.arange(count, device=changed.device)

    def weights(self, masks: Tensor, differing: Tensor) -> Tensor:
        """w `(N, D)` by `masks` `(K, D)` of pairs that differ in `differing` `(N, K)`."""
        powers = masks**self.power
        if self.pairing == "plain":
            return self.relative(powers.mean(dim=0).expand(len(differing), -1))
        return self.relative(product(powers, differing))

    def relative(self, weights: Tensor) -> Tensor:
        """Loss B's weights on the embedding, of mean one; others' as they are."""
        if self.subspace_loss != "B" or self.on != "embedding":
            return weights
        return weights / weights.mean(dim=1, keepdim=True).clamp(min=1e-12)  # an empty product claims nothing

    def projector(self, sizes: Sequence[int], last: str) -> nn.Module:
        return MaskedProjector(sizes, last) if self.on == "representation" else super().projector(sizes, last)

    def conditions(self, views: Views) -> list[Tensor | None]:
        if self.on == "embedding":
            return [None, None]
        return [self.weights(self.masks(), self.differing(views))] * 2

    def encode(self, host: Method, views: Views) -> Encoded:
        if self.pairing != "isolate_each":
            return super().encode(host, views)
        first, *others = [host.features(view) for view in views.images]
        features = [
            first.repeat(len(others), 1),
            torch.cat(others),
        ]  # the first view of an image once, its pairs K times
        made = [host.projector(f, c) for f, c in zip(features, self.conditions(views), strict=True)]
        return Encoded(features, [z for z, _ in made], [h for _, h in made])

    def objective(self, host: Method, encoded: Encoded, views: Views, labels: Tensor | None, step: int) -> Parts:
        spoken, differing, masks = self.spoken(views), self.differing(views), self.masks()
        if self.subspace_loss == "D":
            parts = self.contrastive(host, encoded, spoken, differing)
        else:
            parts = self.vicreg(encoded, spoken, differing, masks)
        mu = self.vicreg_weights[1]
        if self.sparsity:
            parts["loss"] = parts["loss"] + mu * self.sparsity * masks.mean()
        if self.diversity:
            parts["likeness"] = likeness(masks)
            parts["loss"] = parts["loss"] + self.diversity * parts["likeness"]
        return parts | {"mask_mean": masks.detach().mean()}

    def groups(self, spoken: Tensor) -> Tensor:
        """`(N,)`: pairs over which a mean is taken before the mean over groups: those of an augmentation, and those of none.

        Pairs that speak of several, or of all alike, are one group.
        """
        if self.pairing in ("composed", "plain"):
            return torch.zeros_like(spoken[:, 0], dtype=torch.long)
        return torch.where(spoken.any(dim=1), spoken.int().argmax(dim=1), len(self.augmentations))

    def per_pair(self, values: Tensor, spoken: Tensor) -> Tensor:
        """Mean of `values` `(N, K)` over what each pair speaks of, over all K where that is nothing: `(N,)`."""
        chosen = torch.where(spoken.any(dim=1, keepdim=True), spoken, True).to(values.dtype)
        return (values * chosen).sum(dim=1) / chosen.sum(dim=1)

    def vicreg(self, encoded: Encoded, spoken: Tensor, differing: Tensor, masks: Tensor) -> Parts:
        """Losses A, B and C."""
        (z1, z2), (lam, mu, nu) = encoded.embeddings, self.vicreg_weights
        groups, held = self.groups(spoken), masks.detach() if self.contrasted else masks
        weights = self.weights(held, differing) if self.on == "embedding" else torch.ones_like(z1)
        mismatch = losses.weighted_mismatch(z1, z2, weights)
        unweighed = mismatch
        mismatch, parts = self.weighed(mismatch, encoded, weights, spoken, groups)
        if parts:
            parts = self.follow(unweighed, parts, differing)
        parts["invariance"] = losses.mean_per_group(mismatch, groups, len(self.augmentations) + 1)
        every = [gather(z) for z in (z1, z2)]
        if self.subspace_loss == "B" or self.on == "representation":
            v1, v2 = (losses.variance(z) for z in every)
            c1, c2 = (losses.covariance(z) for z in every)
        else:
            hard = self.masks.kind == "hard"
            deviating = losses.chosen_variance if hard else losses.subspace_variance
            v1, v2 = (deviating(z, masks).mean() for z in every)
            c1, c2 = (losses.subspace_covariance(z, masks, 1 if hard else 2).mean() for z in every)
        parts |= {"variance": (v1 + v2) / 2, "covariance": c1 + c2}
        loss = lam * parts["invariance"] + mu * parts["variance"] + nu * parts["covariance"]
        if "likelihood" in parts:
            loss = loss + parts["likelihood"]
        squared = (z1 - z2).square()
        if self.contrasted:
            alone = differing & (differing.sum(dim=1, keepdim=True) == 1)
            parts["choice"] = (masks * self.contrast(squared.detach(), alone)).sum() / masks.shape[1]
            loss = loss + lam * parts["choice"]
        if self.outside_weight:
            outside = 1 - product(held, differing)
            parts["outside"] = losses.untold(squared, outside, spoken, self.outside_std)
            loss = loss + mu * self.outside_weight * parts["outside"]
        if self.subspace_loss == "C":
            loss = loss + self.full_weight * losses.vicreg(z1, z2, self.vicreg_weights)["loss"]
        if self.scale_fix == "pin_std":
            parts["excess_std"] = (losses.excess_std(every[0]) + losses.excess_std(every[1])) / 2
            loss = loss + mu * parts["excess_std"]
        return {"loss": loss, **parts}

    def weighed(
        self, mismatch: Tensor, encoded: Encoded, weights: Tensor, spoken: Tensor, groups: Tensor
    ) -> tuple[Tensor, Parts]:
        """The mismatch `(N,)` as the uncertainty has it, with each pair's "uncertainty" `(N,)` and a likelihood if there is one."""
        if self.uncertainty == "none":
            return mismatch, {}
        spread = weights.detach().mean(dim=1)
        count = len(self.augmentations) + 1
        if self.task_variance is not None:
            tau = self.per_pair(self.task_variance.expand(len(spoken), -1), spoken).exp()
            return mismatch / tau + spread * tau.log(), {"uncertainty": tau.detach()}
        assert self.log_variance is not None
        hidden = [h.detach() if self.uncertainty == "reweight" else h for h in encoded.hidden]
        read = [self.log_variance(h) for h in hidden]
        if self.uncertainty in PER_DIMENSION:
            variances = torch.stack(read).exp().sum(dim=0)
            squared = (encoded.embeddings[0] - encoded.embeddings[1]).square()
            if self.uncertainty == "moments":
                return (weights * (squared + variances)).mean(dim=1), {"uncertainty": variances.detach().mean(dim=1)}
            tau = variances.clamp(*TAU_RANGE)
            value = (weights * squared / tau + weights.detach() * tau.log()).mean(dim=1)
            return value, {"uncertainty": tau.detach().mean(dim=1)}
        if self.uncertainty == "softmax":
            return self.softmax_weighed(mismatch, [self.per_pair(r, spoken) for r in read], groups)
        tau = torch.stack([self.per_pair(r, spoken).exp() for r in read]).sum(dim=0).clamp(*TAU_RANGE)
        parts: Parts = {"uncertainty": tau.detach()}
        if self.uncertainty == "gaussian":
            return mismatch / tau + spread * tau.log(), parts
        parts["likelihood"] = losses.mean_per_group(mismatch.detach() / tau + spread * tau.log(), groups, count)
        certainty = 1 / tau.detach()
        return mismatch * certainty / losses.group_means(certainty, groups, count)[groups], parts

    def softmax_weighed(self, values: Tensor, read: list[Tensor], groups: Tensor) -> tuple[Tensor, Parts]:
        """`values` `(N,)` times weights exp(-r) of mean one within each group, r `(N,)` the mean of both views', + .01 r^2."""
        r = torch.stack(read).mean(dim=0)
        certainty = (-r).exp()
        means = losses.group_means(certainty, groups, len(self.augmentations) + 1)
        return values * certainty / means[groups] + 0.01 * r.square(), {"uncertainty": r.exp().detach()}

    def contrastive(self, host: Method, encoded: Encoded, spoken: Tensor, differing: Tensor) -> Parts:
        """Loss D: the host's own, in each pair's subspace."""
        groups = self.groups(spoken)
        chosen = self.weights(self.masks(), differing) if self.on == "embedding" else None
        if isinstance(host, MoCo):
            (query,), (key,) = encoded.embeddings, encoded.targets
            rows = losses.info_nce(query, [key], host.queue.rows.clone(), self.temperature, chosen)
            if self.training:
                host.queue.push(key)
        else:
            rows = losses.nt_xent(encoded.embeddings[0], encoded.embeddings[1], self.temperature, chosen)
        parts: Parts = {}
        if self.log_variance is not None:
            read = [self.per_pair(self.log_variance(h), spoken) for h in encoded.hidden]
            weighed, parts = self.softmax_weighed(rows, read, groups)
            parts, rows = self.follow(rows, parts, differing), weighed
        return {"loss": losses.mean_per_group(rows, groups, len(self.augmentations) + 1), **parts}


def product(masks: Tensor, differing: Tensor) -> Tensor:
    """Product of the rows of `masks` `(K, D)` that `differing` `(N, K)` bool chooses: `(N, D)`, ones where that is none."""
    made = masks.new_ones(len(differing), masks.shape[1])
    for k, row in enumerate(masks):
        made = torch.where(differing[:, k, None], made * row, made)
    return made


class MaskedProjector(Projector):
    """A projector of features with a mask on them: `forward(features (N, d), mask (N, d))`."""

    def forward(self, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if condition is None:
            raise refuse("condition", None, "a mask for every image")
        return super().forward(features * condition.to(features.dtype))
