"""One name, two losses: what other libraries, and papers as printed, compute under the names of this project's losses.

Each row says what has to be set and multiplied to have equal values: ours = scale x theirs + shift. Nothing here imports another
library; their values follow from ours by the row's formula, and tests/test_conventions.py holds every row against the library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from mastlib import losses
from mastlib.evaluation.layers import TEMPERATURE, contrast

PRINTED = "the paper, as printed"


@dataclass(frozen=True)
class Tensors:
    """What losses are computed from, float64: embeddings `z1`, `z2` of two views and predictions `p1`, `p2` from them, `(N, D)`;
    earlier keys `queue` `(Q, D)`; cosines `scores1`, `scores2` of the embeddings with P prototypes, `(N, P)`."""

    z1: Tensor
    z2: Tensor
    p1: Tensor
    p2: Tensor
    queue: Tensor
    scores1: Tensor
    scores2: Tensor


def tensors(images: int, dim: int, queue: int, prototypes: int, seed: int = 0) -> Tensors:
    """Random `Tensors`: rows of normal numbers, the second view's and the predictions a row plus half as much noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, dim, generator=generator, dtype=torch.float64)

    z1 = 0.8 * normal(images)
    z2, p1 = z1 + 0.4 * normal(images), z1 + 0.4 * normal(images)
    p2 = z2 + 0.4 * normal(images)
    directions = functional.normalize(normal(prototypes), dim=1)
    scores1, scores2 = (functional.normalize(z, dim=1) @ directions.T for z in (z1, z2))
    return Tensors(z1, z2, p1, p2, normal(queue), scores1, scores2)


@dataclass(frozen=True)
class Convention:
    """One loss here, `value` by `ours`, and under another roof, `library`'s `theirs`, which as it comes has `as_it_comes`.

    With `setting`, ours = `scale` x theirs + `shift`; `relation` is that in words, `why` what makes the difference.
    """

    loss: str
    ours: str
    library: str
    theirs: str
    setting: str
    relation: str
    why: str
    value: Callable[[Tensors], Tensor]
    as_it_comes: Callable[[Tensors], Tensor]
    scale: Callable[[Tensors], float] = lambda t: 1.0
    shift: float = 0.0

    @property
    def name(self) -> str:
        """Unique: loss, library, class."""
        return f"{self.loss}, {self.library}, {self.theirs}"


def _nt_xent(temperature: float) -> Callable[[Tensors], Tensor]:
    return lambda t: losses.nt_xent(t.z1, t.z2, temperature).mean()


def _info_nce(temperature: float) -> Callable[[Tensors], Tensor]:
    return lambda t: losses.info_nce(t.z1, [t.z2], t.queue, temperature).mean()


def _barlow(weight: float) -> Callable[[Tensors], Tensor]:
    return lambda t: losses.barlow_twins(t.z1, t.z2, weight)["loss"]


def _vicreg(t: Tensors) -> Tensor:
    return losses.vicreg(t.z1, t.z2)["loss"]


def _vicreg_printed(t: Tensors) -> Tensor:
    return losses.vicreg(t.z1, t.z2, (25.0 * t.z1.shape[1], 2 * 25.0, 1.0))["loss"]


def _swav(t: Tensors) -> Tensor:
    return losses.swav(t.scores1, t.scores2)


def _both_ways(t: Tensors) -> Tensor:
    return (losses.negative_cosine(t.p1, t.z2) + losses.negative_cosine(t.p2, t.z1)) / 2


def _sensitivity(t: Tensors) -> Tensor:
    return contrast(losses.cosines(t.z1, t.z2))[0]


def _one_way(temperature: float) -> Callable[[Tensors], Tensor]:
    """InfoNCE of the first views among the second ones."""
    return lambda t: functional.cross_entropy(losses.cosines(t.z1, t.z2) / temperature, torch.arange(len(t.z1)))


_LIGHTLY, _PML = "lightly", "pytorch-metric-learning"
#: The temperature that NT-Xent has where none is given: whose -> T.
TEMPERATURES: Mapping[str, float] = MappingProxyType(
    {f"{_PML}: NTXentLoss": 0.07, f"{_PML}: SupConLoss": 0.1, "here": 0.2, f"{_LIGHTLY}: NTXentLoss": 0.5}
)
_SAME = "ours = theirs"

#: Every row; the first of a loss is the plainest.
CONVENTIONS: Sequence[Convention] = (
    Convention(
        "NT-Xent", "nt_xent(z1, z2, T).mean()", _LIGHTLY, "NTXentLoss()", "temperature=T", _SAME,
        "Another default: T = .5, ours .2.", _nt_xent(0.2), _nt_xent(0.5),
    ),
    Convention(
        "NT-Xent", "nt_xent(z1, z2, T).mean()", _PML, "SelfSupervisedLoss(NTXentLoss())", "temperature=T", _SAME,
        "Another default: T = .07, ours .2.", _nt_xent(0.2), _nt_xent(0.07),
    ),
    Convention(
        "NT-Xent", "nt_xent(z1, z2, T).mean()", _PML, "SelfSupervisedLoss(NTXentLoss(reducer=SumReducer()))", "temperature=T",
        "ours = theirs / (2N)", "A sum over the 2N rows, as some codes have it; ours is each image's mean of both views.",
        _nt_xent(0.2), lambda t: 2 * len(t.z1) * _nt_xent(0.07)(t), lambda t: 1 / (2 * len(t.z1)),
    ),
    Convention(
        "NT-Xent", "nt_xent(z1, z2, T).mean()", _PML, "SelfSupervisedLoss(SupConLoss())", "temperature=T", _SAME,
        "Two names, one loss: with one positive for each row, the supervised contrastive loss is NT-Xent. Default T = .1.",
        _nt_xent(0.2), _nt_xent(0.1),
    ),
    Convention(
        "InfoNCE", "info_nce(z1, [z2], queue, T).mean()", _LIGHTLY, "NTXentLoss(memory_bank_size=(Q, D))",
        "temperature=T, z2.detach()", _SAME,
        "Another default: T = .5, ours .2. Theirs lets a gradient flow to the keys unless they are detached; ours never does.",
        _info_nce(0.2), _info_nce(0.5),
    ),
    Convention(
        "InfoNCE, as a sensitivity", "evaluation.layers.contrast(cosines(z1, z2))[0]", _PML,
        "SelfSupervisedLoss(NTXentLoss(), symmetric=False)", f"temperature={TEMPERATURE}",
        f"ours = 2T theirs = {2 * TEMPERATURE:g} theirs",
        "CASSLE's code measures with a factor 2T, and so do we, to be comparable. Without symmetry, negatives are the other "
        "view's rows only, N - 1 of them and not 2N - 2.",
        _sensitivity, _one_way(0.07), lambda t: 2 * TEMPERATURE,
    ),
    Convention(
        "negative cosine", "negative_cosine(p1, z2)", _LIGHTLY, "NegativeCosineSimilarity()", "z2.detach()", _SAME,
        "Values are equal; stopping the gradient is left to the caller there, and done here.",
        lambda t: losses.negative_cosine(t.p1, t.z2), lambda t: losses.negative_cosine(t.p1, t.z2),
    ),
    Convention(
        "SimSiam", "half the sum of both directions", _LIGHTLY, "NegativeCosineSimilarity(), mean of both directions",
        "z1.detach(), z2.detach()", _SAME, "As the paper's equation 2.", _both_ways, _both_ways,
    ),
    Convention(
        "BYOL", "sum over both directions of 2 - 2 cos", _LIGHTLY, "NegativeCosineSimilarity(), mean of both directions",
        "z1.detach(), z2.detach()", "ours = 4 + 4 theirs",
        "The paper's squared distance of unit vectors, in both directions, is 0 where all agree; the negative cosine is -1. "
        "A learning rate is worth four times as much.",
        lambda t: 4 + 4 * _both_ways(t), _both_ways, lambda t: 4.0, 4.0,
    ),
    Convention(
        "VICReg", "vicreg(z1, z2, (λ, μ, ν))", _LIGHTLY, "VICRegLoss()", "lambda_param=λ, mu_param=μ, nu_param=ν", _SAME,
        "Both follow the authors' code.", _vicreg, _vicreg,
    ),
    Convention(
        "VICReg", "vicreg(z1, z2, (λ, μ, ν))", _PML, "VICRegLoss()", "invariance_lambda=λ, variance_mu=μ, covariance_v=ν",
        _SAME, "Both follow the authors' code.", _vicreg, _vicreg,
    ),
    Convention(
        "VICReg", "vicreg(z1, z2, (λ, μ, ν))", PRINTED, "equation 6", "λ / D, μ / 2, ν", _SAME,
        "As printed, the invariance sums over the D dimensions and both variance terms count in full; in the authors' code the one "
        "is a mean over dimensions, and of the other two the mean is taken. 25, 25, 1 are the code's.",
        _vicreg, _vicreg_printed,
    ),
    Convention(
        "Barlow Twins", "barlow_twins(z1, z2, λ)", _LIGHTLY, "BarlowTwinsLoss()", "lambda_param=λ", _SAME,
        "Another default: λ = .005, ours .0051 as in the authors' code. Both sum over the matrix and divide the deviation by N.",
        _barlow(0.0051), _barlow(0.005),
    ),
    Convention(
        "SwAV", "swav(scores1, scores2, T, ε, iterations)", _LIGHTLY, "SwaVLoss()",
        "temperature=T, sinkhorn_epsilon=ε, sinkhorn_iterations=iterations", _SAME,
        "The same defaults. Both take the mean of the two directions.", _swav, _swav,
    ),
    Convention(
        "SwAV", "swav(scores1, scores2, T, ε, iterations)", PRINTED, "equation 2", "the same T, ε, iterations",
        "ours = theirs / 2", "As printed, the two directions are summed.", _swav, lambda t: 2 * _swav(t), lambda t: 0.5,
    ),
)  # fmt: skip


def compared(given: Tensors) -> pd.DataFrame:
    """A row for each of CONVENTIONS: its words, `here` our value of `given`, `there` theirs as it comes, `ratio` here / there.

    `needed`: theirs with the setting, (here - shift) / scale; `equal`: whether the setting alone makes the values equal.
    """
    rows = []
    for one in CONVENTIONS:
        here, there, scale = float(one.value(given)), float(one.as_it_comes(given)), one.scale(given)
        row: dict[str, Any] = {"loss": one.loss, "ours": one.ours, "library": one.library, "theirs": one.theirs}
        row |= {"here": here, "there": there, "ratio": here / there, "needed": (here - one.shift) / scale}
        row |= {"equal": scale == 1 and one.shift == 0}
        rows.append(row | {"setting": one.setting, "relation": one.relation, "why": one.why})
    return pd.DataFrame(rows)


def by_temperature(given: Tensors, temperatures: Sequence[float]) -> pd.DataFrame:
    """NT-Xent of `given` at each of `temperatures`: temperature, nats."""
    return pd.DataFrame([{"temperature": t, "nats": float(_nt_xent(t)(given))} for t in temperatures])
