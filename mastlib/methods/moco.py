"""MoCo v2 (He, Fan, Wu, Xie, Girshick; CVPR 2020; Chen, Fan, Girshick, He; 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mastlib import losses
from mastlib.distributed import gather
from mastlib.methods.base import Encoded, Momentum, Parts
from mastlib.spec import RunSpec


class Queue(torch.nn.Module):
    """The last `size` keys, unit rows `(size, D)`, oldest overwritten first; random unit rows at the start.

    Any batch fits: a write goes round the end. Source: He et al. 2020, section 3.2.
    """

    rows: Tensor
    next: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", functional.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """The keys `(N, D)` of all processes, in their order; of more than fit, the last."""
        size = len(self.rows)
        every = functional.normalize(gather(keys.detach()), dim=1)
        places = (self.next + torch.arange(len(every), device=every.device)) % size
        self.rows[places[-size:]] = every[-size:].to(self.rows.dtype)
        self.next.copy_((self.next + len(every)) % size)


class MoCo(Momentum):
    """View 0 against a slow copy's embedding of view 1 and a queue of earlier ones; projector d-d-128.

    What enters the queue are the keys (AugSelf's code enqueues queries, a slip). The projector has a batch-norm in the
    middle, as in AugSelf's code; its momentum is `spec.momentum`.
    """

    last = "bias"

    def prepare(self, spec: RunSpec, classes: int) -> None:
        super().prepare(spec, classes)
        self.temperature = spec.temperature
        self.queue = Queue(spec.queue, self.sizes[-1])

    @staticmethod
    def paper_sizes(dim: int) -> tuple[int, ...]:
        return dim, 128

    def encode(self, images: Tensor, conditions: Sequence[Tensor | None]) -> Encoded:
        query = self.features(images[0])
        z, hidden = self.projector(query, conditions[0])
        key, target = self.slow(images[1], conditions[1])
        return Encoded([query, key], [z], [hidden], [target])

    def objective(self, encoded: Encoded, labels: Tensor | None, step: int) -> Parts:
        (query,), (key,) = encoded.embeddings, encoded.targets
        loss = losses.info_nce(query, [key], self.queue.rows.clone(), self.temperature).mean()
        if self.training:
            self.queue.push(key)
        return {"loss": loss}
