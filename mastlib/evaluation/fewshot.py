"""Few-shot classification on frozen features: many small problems with classes nobody was trained on, all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.errors import InputError, check_float, check_int

NEWTON_STEPS, ENOUGH = 50, 1e-10  # the last step's largest change of a coefficient
AT_ONCE = (
    2**22
)  # numbers of features that are gathered at once, which the C library's allocator reuses: larger ones are new pages each time


@dataclass(frozen=True)
class FewShotResult:
    """`accuracy`: mean over episodes; `low`, `high`: its 95% interval, 1.96 standard errors; `each`: every episode's,
    `(episodes,)`; `chance`: 1 / ways; `classes`: how many there are to draw from."""

    accuracy: float
    low: float
    high: float
    each: Tensor
    chance: float
    classes: int


@dataclass(frozen=True)
class Episodes:
    """Rows of the features: `support` `(E, ways, shots)` and `query` `(E, ways, queries)`, the ways in the classes' places."""

    support: Tensor
    query: Tensor
    classes: int


def draw_episodes(
    labels: Sequence[object] | np.ndarray | pd.Series, ways: int, shots: int, queries: int, episodes: int, seed: int = 0
) -> Episodes:
    """`episodes` problems of `ways` classes, each with `shots` examples and `queries` questions, the same for the same arguments.

    labels `(M,)`: the images' classes, missing where an image takes no part. A class needs more than `shots` images. Examples and
    questions are different images; where a class has too few for `queries` different ones, they are drawn with replacement from
    those that are no examples. Raises InputError for counts below 1 and where fewer than `ways` classes are large enough.
    Source: AugSelf (Lee et al. 2021), code.
    """
    for name, value in (("shots", shots), ("queries", queries), ("episodes", episodes)):
        check_int(name, value, 1)
    check_int("ways", ways, 2)
    named = pd.Series(np.asarray(labels, dtype=object))
    groups = [rows.to_numpy() for _, rows in named.dropna().index.to_series().groupby(named) if len(rows) > shots]
    if len(groups) < ways:
        raise InputError(
            f"{ways}-way {shots}-shot episodes need {ways} classes of more than {shots} images; {len(groups)} have them"
        )
    draw = np.random.default_rng([seed, ways, shots, queries])
    chosen = np.argsort(draw.random((episodes, len(groups))), axis=1)[:, :ways]
    sizes = np.array([len(rows) for rows in groups])
    members = np.zeros((len(groups), sizes.max()), dtype=np.int64)
    for place, rows in enumerate(groups):
        members[place, : len(rows)] = rows
    count = sizes[chosen][..., None]
    keys = draw.random((episodes, ways, members.shape[1]))
    keys[np.arange(members.shape[1]) >= count] = 2.0  # after all images that there are
    order = np.take_along_axis(members[chosen], keys.argsort(axis=-1), axis=-1)
    different = np.arange(queries)[None, None]
    again = (draw.random((episodes, ways, queries)) * (count - shots)).astype(np.int64)
    places = shots + np.where(count - shots >= queries, different, again)
    query = np.take_along_axis(order, places, axis=-1)
    return Episodes(torch.from_numpy(order[..., :shots]), torch.from_numpy(query), len(groups))


def few_shot(features: Tensor, episodes: Episodes, penalty: float = 1.0) -> FewShotResult:
    """Accuracy of a logistic classifier fitted on each episode's examples, on its questions.

    One against the rest for each way: min_w C sum_i log(1 + exp(-y_i w'x_i)) + |w|^2 / 2, x `(D + 1,)` a feature with a 1 behind
    it, so that the bias is penalised; the way whose w'x is largest is the answer. features `(M, D)` as they are; C: `penalty`.
    As many unknowns as examples, since w is a sum of them (Kimeldorf and Wahba 1971); Newton's steps, all episodes at once.
    Raises InputError for a `penalty` that is not positive.
    Source: AugSelf (Lee et al. 2021), code: scikit-learn's liblinear with C = 1, 5 ways, 1 or 5 shots, 16 questions, 2000 episodes.
    """
    check_float("penalty", penalty, 1e-12)
    count, ways, shots = episodes.support.shape
    part = max(1, AT_ONCE // (ways * (shots + episodes.query.shape[2]) * (features.shape[1] + 1)))
    double = features.double()
    each = torch.cat(
        [
            _accuracies(double, support, query, penalty)
            for support, query in zip(episodes.support.split(part), episodes.query.split(part), strict=True)
        ]
    )
    mean = float(each.mean())
    half = 1.96 * float(each.std(correction=0)) / math.sqrt(count)
    return FewShotResult(mean, mean - half, mean + half, each, 1 / ways, episodes.classes)


def _accuracies(features: Tensor, support: Tensor, query: Tensor, penalty: float) -> Tensor:
    """Share of right answers of each episode `(E,)`; products of features get the 1 that theirs with a 1 behind them would have."""
    ways, shots = support.shape[1:]
    given, asked = (features[rows.flatten(1)] for rows in (support, query))
    truth = torch.arange(ways).repeat_interleave(shots)
    signs = 2.0 * F.one_hot(truth, ways).T.double() - 1  # (ways, n)
    coefficients = fit_dual(given @ given.mT + 1, signs.expand(len(given), -1, -1), penalty)
    scores = coefficients @ (given @ asked.mT + 1)  # (E, ways, questions)
    right = scores.argmax(dim=1) == torch.arange(ways).repeat_interleave(query.shape[2])
    return right.double().mean(dim=1)


def fit_dual(gram: Tensor, signs: Tensor, penalty: float) -> Tensor:
    """Coefficients a `(E, K, n)` with w = sum_i a_i x_i of K two-class problems for each of E sets of n examples.

    gram `(E, n, n)`: x_i'x_j; signs `(E, K, n)`: y_i of each problem. At the minimum a_i = C y_i / (1 + exp(y_i f_i)), f = gram a;
    Newton's method for that equation, halving steps that do not lower the objective. float64.
    """
    a = torch.zeros_like(signs)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = gram[:, None]

    def objective(a: Tensor) -> Tensor:
        f = (gram @ a[..., None])[..., 0]
        return penalty * F.softplus(-signs * f).sum(-1) + (a * f).sum(-1) / 2

    value = objective(a)
    for _ in range(NEWTON_STEPS):
        f = (gram @ a[..., None])[..., 0]
        p = torch.sigmoid(-signs * f)
        residual = a - penalty * signs * p
        slope = penalty * p * (1 - p)
        step = -torch.linalg.solve(identity + slope[..., None] * gram, residual[..., None])[..., 0]
        size = torch.ones_like(value)
        for _ in range(30):
            tried = objective(a + size[..., None] * step)
            worse = tried > value + 1e-12 * value.abs()
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        a = a + size[..., None] * step
        value = objective(a)
        if float((size[..., None] * step).abs().max()) < ENOUGH:
            break
    return a
