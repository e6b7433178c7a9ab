"""LooC (Xiao, Wang, Efros, Darrell; ICLR 2021): a space for each augmentation that keeps what the augmentation changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mastlib import losses
from mastlib.augment.pipeline import Views
from mastlib.methods.base import Awareness, Encoded, Method, Parts
from mastlib.methods.moco import MoCo, Queue
from mastlib.models.heads import Projector
from mastlib.spec import RunSpec


class LooC(Awareness):
    """K + 1 heads on MoCo's backbone: head 0 invariant to all K augmentations, head i sensitive to augmentation i alone.

    Views [pairing "leave_one_out"]: a query q with everything drawn, a key k_0 with everything drawn anew, and keys k_i that
    keep the query's augmentation i. With E_h(q, k) = exp(cos of their embeddings by head h / T) and E-_h the sum over head
    h's queue:

        L = -1/(K + 1) { sum_{j=0..K} log E_0(q, k_j) / (E_0(q, k_j) + E-_0)
                         + sum_{i=1..K} log E_i(q, k_i) / (sum_{j=0..K} E_i(q, k_j) + E-_i) }

    So in space i the keys that changed augmentation i are negatives of the query, though they show the same image. Each head
    has its own queue, of its own positives (k_0 of head 0, k_i of head i); heads are the host's projectors, with slow copies.
    Source: section 3. What the paper does not say is which keys are queued.

    LooC++ (`spec.looc_stages`): each head begins with its own copy of the backbone's last residual stage, and what transfers
    is the concatenation of the K + 1 copies' pooled outputs, `(N, (K + 1) d)`. The loss is the same. That the copied part is
    the last stage, and that its output transfers instead of the head's, is from memory: the text at hand does not state it.
    The copies start equal, so that with one seed LooC++ starts from what LooC starts from; heads and losses part them.
    """

    def __init__(self, spec: RunSpec, augmentations: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(spec, augmentations, sizes)
        self.count, self.temperature, self.stages = len(augmentations), spec.temperature, spec.looc_stages
        self.queues = nn.ModuleList(Queue(spec.queue, sizes[-1]) for _ in range(self.count))

    def projector(self, sizes: Sequence[int], last: str) -> nn.Module:
        return Heads(sizes, last, self.count, self.stages)

    def encode(self, host: Method, views: Views) -> Encoded:
        """embeddings: the query by each head, `(N, D)` x (K + 1); targets: keys 0..K in a row of `(K + 1, N, D)`, one a head."""
        assert isinstance(host, MoCo)
        features = host.features(views.images[0])
        queries = host.projector.every(features)  # type: ignore[operator]
        with torch.no_grad():
            keys = [host.slow_features(images) for images in views.images[1:]]
            targets = [host.slow_projector.every(key) for key in keys]  # type: ignore[operator]
        by_head = [torch.stack(of_head) for of_head in zip(*targets, strict=True)]
        return Encoded([features, keys[0]], queries, [], by_head)

    def objective(self, host: Method, encoded: Encoded, views: Views, labels: Tensor | None, step: int) -> Parts:
        assert isinstance(host, MoCo)
        queries, keys, queues = encoded.embeddings, encoded.targets, [host.queue, *self.queues]
        invariant = [losses.info_nce(queries[0], [k], queues[0].rows.clone(), self.temperature).mean() for k in keys[0]]
        sensitive = []
        for i in range(1, self.count + 1):
            others = [key for j, key in enumerate(keys[i]) if j != i]
            every = [keys[i][i], *others]
            sensitive.append(losses.info_nce(queries[i], every, queues[i].rows.clone(), self.temperature).mean())
        if self.training:
            for i, queue in enumerate(queues):
                queue.push(keys[i][i])
        parts = {"invariant": torch.stack(invariant).mean(), "sensitive": torch.stack(sensitive).mean()}
        return {"loss": torch.stack(invariant + sensitive).sum() / (self.count + 1), **parts}


class Heads(nn.Module):
    """A projector of the host's kind for each space; `forward` is head 0.

    All heads read the same features `(N, d)`; with `apart`, head h reads slice h of `(N, (K + 1) d)`.
    """

    def __init__(self, sizes: Sequence[int], last: str, count: int, apart: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Projector(sizes, last) for _ in range(count + 1))
        self.apart = apart

    def forward(self, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.heads[0](self.read(features)[0])

    def every(self, features: Tensor) -> list[Tensor]:
        """The embeddings `(N, D)` by each head."""
        return [head(read)[0] for head, read in zip(self.heads, self.read(features), strict=True)]

    def read(self, features: Tensor) -> Sequence[Tensor]:
        """What each head reads, `(N, d)`."""
        return features.chunk(len(self.heads), dim=1) if self.apart else [features] * len(self.heads)
