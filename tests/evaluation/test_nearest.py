"""Nearest neighbours and what they get wrong are scikit-learn's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mastlib.errors import InputError
from mastlib.evaluation.nearest import knn_accuracy, knn_errors


def test_knn_equals_scikit_learn_with_cosine():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=g)
    x = torch.randn(300, 8, generator=g) + 2 * torch.nn.functional.one_hot(labels, 8)
    peer = KNeighborsClassifier(1, metric="cosine").fit(x[:200], labels[:200]).score(x[200:], labels[200:])
    assert knn_accuracy(x[:200], labels[:200], x[200:], labels[200:]) == pytest.approx(peer)


def test_knn_errors_are_those_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(3)
    features, labels = torch.randn(90, 4, generator=draw) + 0.5, np.arange(90) % 3
    features[:, 0] += torch.from_numpy(labels)
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    every = np.arange(90)
    expected = [
        KNeighborsClassifier(1).fit(unit[every != i], labels[every != i]).predict(unit[i : i + 1])[0] != labels[i]
        for i in range(90)
    ]
    assert knn_errors(features, labels).tolist() == expected and 0 < np.mean(expected) < 1
    split = np.where(every < 60, "train", "val")
    by_train = knn_errors(features, labels, split == "train")
    classes = torch.from_numpy(labels)
    share = knn_accuracy(features[:60], classes[:60], features[60:], classes[60:])
    assert 1 - by_train[60:].mean() == pytest.approx(share)
    assert by_train[:60].tolist() == knn_errors(features[:60], labels[:60]).tolist()
    some = pd.Series(labels.astype(object)).where(every % 9 > 0, None)
    found, known = knn_errors(features, some), every % 9 > 0
    assert np.isnan(found[~known]).all()
    assert found[known].tolist() == knn_errors(features[torch.from_numpy(known)], labels[known]).tolist()
    with pytest.raises(InputError, match="two or more in memory"):
        knn_errors(features, labels, every < 1)
    with pytest.raises(InputError, match="90"):
        knn_errors(features, labels[:80])
