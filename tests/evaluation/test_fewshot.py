"""Episodes against their definition, their classifier against scikit-learn's, and answers that are known beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from mastlib.errors import InputError
from mastlib.evaluation.fewshot import draw_episodes, few_shot, fit_dual


@pytest.fixture(scope="module")
def classes():
    """Twelve classes of 2 to 13 images, in no order, and images of none."""
    labels = [f"c{i}" for i in range(12) for _ in range(i + 2)] + [None, float("nan")]
    return np.array(labels, dtype=object)[np.random.default_rng(0).permutation(len(labels))]


@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 16), (5, 5, 3), (2, 4, 1)])
def test_episodes_are_of_different_classes_and_examples_are_never_asked(classes, ways, shots, queries):
    drawn = draw_episodes(classes, ways, shots, queries, 300)
    large = {name for name in pd.unique(classes) if (classes == name).sum() > shots}
    assert drawn.support.shape == (300, ways, shots) and drawn.query.shape == (300, ways, queries)
    assert drawn.classes == len(large)
    seen = set()
    for support, query in zip(drawn.support, drawn.query, strict=True):
        names = [set(classes[rows.numpy()]) for rows in torch.cat([support, query], dim=1)]
        assert all(len(one) == 1 for one in names) and len(set.union(*names)) == ways <= len(large)
        seen |= set.union(*names)
        for examples, asked in zip(support.tolist(), query.tolist(), strict=True):
            assert len(set(examples)) == shots and not set(examples) & set(asked)
            left = (classes == classes[examples[0]]).sum() - shots
            assert left < queries or len(set(asked)) == queries, "different images while there are enough"
    assert seen == large, "every class that is large enough takes part"


def test_episodes_are_a_function_of_their_arguments(classes):
    first, same, other = (draw_episodes(classes, 5, 1, 4, 20, seed) for seed in (3, 3, 4))
    assert first.support.equal(same.support) and first.query.equal(same.query)
    assert not first.support.equal(other.support)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shots", [1, 5])
def test_the_classifier_is_scikit_learns(classes, shots, penalty):
    features = torch.randn(len(classes), 30, generator=torch.Generator().manual_seed(1)) * 2 + 0.5
    drawn = draw_episodes(classes, 5, shots, 6, 12)
    mine = few_shot(features, drawn, penalty)
    truth = np.arange(5)
    for support, query, accuracy in zip(drawn.support, drawn.query, mine.each.tolist(), strict=True):
        one = LogisticRegression(solver="liblinear", C=penalty, tol=1e-8, max_iter=10_000)
        theirs = OneVsRestClassifier(one).fit(features[support.flatten()].numpy(), truth.repeat(shots))
        right = theirs.predict(features[query.flatten()].numpy()) == truth.repeat(6)
        assert right.mean() == pytest.approx(accuracy)
    assert mine.accuracy == pytest.approx(mine.each.mean().item())
    half = 1.96 * mine.each.numpy().std() / np.sqrt(12)
    assert (mine.low, mine.high) == pytest.approx((mine.accuracy - half, mine.accuracy + half))


def test_coefficients_are_the_minimum_even_of_separable_and_huge_features():
    draw = torch.Generator().manual_seed(2)
    for scale in (1e-3, 1.0, 1e3):
        x = scale * torch.randn(4, 8, 20, generator=draw, dtype=torch.float64)
        signs = torch.where(torch.randn(4, 3, 8, generator=draw) > 0, 1.0, -1.0).double()
        a = fit_dual(x @ x.mT, signs, 10.0).requires_grad_()
        w = a @ x
        f = w @ x.mT
        loss = 10.0 * torch.nn.functional.softplus(-signs * f).sum() + w.square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, w)
        assert gradient.abs().max() < 1e-6 * max(1.0, float(w.detach().abs().max()))


def test_features_that_are_the_class_are_always_right_and_constant_ones_at_chance(classes):
    drawn = draw_episodes(classes, 4, 1, 5, 200)
    codes = torch.tensor([int(name[1:]) if isinstance(name, str) else 12 for name in classes])
    known = few_shot(torch.nn.functional.one_hot(codes).float(), drawn)
    assert (known.accuracy, known.low, known.high, known.chance) == (1.0, 1.0, 1.0, 0.25)
    assert few_shot(torch.ones(len(classes), 3), drawn).accuracy == pytest.approx(0.25)
    many = np.arange(2000) % 40  # of few images the luck of some would count again and again
    noise = few_shot(
        torch.randn(2000, 8, generator=torch.Generator().manual_seed(3)), draw_episodes(many, 4, 1, 5, 500)
    )
    assert noise.low < 0.25 < noise.high


def test_parts_of_the_episodes_make_no_difference(classes, monkeypatch):
    features = torch.randn(len(classes), 10, generator=torch.Generator().manual_seed(4))
    drawn = draw_episodes(classes, 5, 1, 4, 30)
    whole = few_shot(features, drawn).each
    monkeypatch.setattr("mastlib.evaluation.fewshot.AT_ONCE", 5 * 5 * 11 * 7)
    assert few_shot(features, drawn).each.equal(whole)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((13, 1, 1, 1), "13-way 1-shot episodes need 13 classes of more than 1 images; 12 have them"),
        ((5, 9, 1, 1), "5-way 9-shot episodes need 5 classes of more than 9 images; 4 have them"),
        ((1, 1, 1, 1), "ways = 1 cannot be used"),
        ((5, 0, 1, 1), "shots = 0 cannot be used"),
        ((5, 1, 1, 0), "episodes = 0 cannot be used"),
    ],
)
def test_what_cannot_be_drawn_is_said(classes, arguments, said):
    with pytest.raises(InputError, match=said):
        draw_episodes(classes, *arguments)
