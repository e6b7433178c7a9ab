"""The masks that pick, for each augmentation, the dimensions in which features shall be invariant to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mastlib.spec import RunSpec

LEARNED = ("sigmoid", "relu", "hard")


class Masks(nn.Module):
    """M `(K, D)` >= 0, a row for each augmentation [mask_type], b learned:

    "sigmoid": sigmoid(b), b drawn around logit(mask_init);  "relu": max(b, 0), b drawn around mask_init (Conditional Similarity
    Networks, Veit et al. 2017);  "hard": 1 where sigmoid(b) > .5, else 0, with sigmoid's gradient (straight-through; loss A is
    written linear in each entry, so that this gradient says what the entry's dimension costs or saves);  "blocks": fixed, one
    where a dimension is in the row's own K-th, disjoint;  "random": fixed, each row its own random half of the dimensions;
    "ones": all of them, a control.
    """

    def __init__(self, spec: RunSpec, count: int, dim: int) -> None:
        super().__init__()
        self.kind = spec.mask_type
        noise = torch.randn(count, dim)
        if self.kind == "relu":
            start = spec.mask_init + 0.5 * noise
        elif self.kind in LEARNED:
            start = torch.logit(torch.tensor(spec.mask_init)) + 0.5 * noise
        elif self.kind == "blocks":
            start = (torch.arange(dim) * count // dim == torch.arange(count)[:, None]).float()
        elif self.kind == "random":
            start = (noise.argsort(dim=1).argsort(dim=1) < dim // 2).float()
        else:
            start = torch.ones(count, dim)
        self.raw = nn.Parameter(start, requires_grad=self.kind in LEARNED)

    def forward(self) -> Tensor:
        return masks_of(self.kind, self.raw)


def masks_of(kind: str, raw: Tensor) -> Tensor:
    """M `(K, D)` of a `mask_type` from its stored numbers."""
    if kind == "relu":
        return raw.relu()
    if kind not in LEARNED:
        return raw
    soft = torch.sigmoid(raw)
    return soft if kind == "sigmoid" else (soft > 0.5).to(soft.dtype) + soft - soft.detach()


def overlap(masks: Tensor) -> Tensor:
    """Cosine between rows with their mean removed, `(K, K)`: 1 for the same choice of dimensions, 0 for unrelated ones.

    The mean is removed because masks are positive: two unrelated rows near 0.9 would have a plain cosine near 1.
    """
    rows = nn.functional.normalize(masks - masks.mean(dim=1, keepdim=True), dim=1)
    return rows @ rows.T


def likeness(masks: Tensor) -> Tensor:
    """Sum over pairs of rows of max(0, `overlap`)^2: 0 where no two rows choose alike. `(K, D)` -> scalar."""
    return overlap(masks).relu().square().triu(diagonal=1).sum()
