from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mastlib.errors import InputError
from mastlib.evaluate.retrieval import cross_vendor_recall


def test_the_same_features_in_every_vendor_are_found() -> None:
    one = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    result = cross_vendor_recall(one.repeat(3, 1), list(range(50)) * 3, np.repeat(["a", "b", "c"], 50))
    assert result.recall == 1
    assert result.n == 300
    assert len(result.pairs) == 6
    assert result.chance == pytest.approx(1 / 50)


def test_unrelated_features_are_at_chance() -> None:
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    result = cross_vendor_recall(x, [i % 10 for i in range(4000)], np.repeat(["a", "b"], 2000))
    assert result.chance == pytest.approx(0.1)
    assert result.recall == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 4000))


def test_by_hand() -> None:
    # Centred already. a1 -> b1 (right), a2 -> b1 (wrong); b1 -> a1 (right), b2 -> a2 (right), b3 has no counterpart.
    x = torch.tensor([[1.0, 0.1], [1.0, -1.2], [5.0, 0.0], [-3.0, -6.0], [-4.0, 7.1]])
    assert x.mean(0).abs().max() < 1e-6
    result = cross_vendor_recall(x, ["1", "2", "1", "2", "3"], ["a", "a", "b", "b", "b"])
    pairs = result.pairs.set_index(["query", "gallery"])
    assert pairs.loc[("a", "b"), "recall"] == 0.5
    assert pairs.loc[("b", "a"), "recall"] == 1.0
    assert pairs.loc[("a", "b"), "chance"] == pytest.approx(1 / 3)
    assert list(pairs["n"]) == [2, 2]
    assert result.recall == 0.75


def test_neighbours_are_scikit_learns_on_centred_features() -> None:
    rng = np.random.default_rng(0)
    x, keys = (
        rng.normal(size=(300, 5)) + 10,
        rng.integers(8, size=300),
    )  # far off centre: uncentred cosines are all near 1
    centred = x - x.mean(0)
    found = NearestNeighbors(n_neighbors=1, metric="cosine").fit(centred[100:]).kneighbors(centred[:100])[1][:, 0]
    result = cross_vendor_recall(torch.tensor(x), keys, ["a"] * 100 + ["b"] * 200)
    assert result.pairs.loc[0, "recall"] == pytest.approx((keys[100:][found] == keys[:100]).mean())


def test_images_without_key_or_vendor_are_left_out() -> None:
    one = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    keys = [None if i in (3, 24) else i % 20 for i in range(40)]
    vendors = ["a"] * 19 + [None] + ["b"] * 20
    result = cross_vendor_recall(one.repeat(2, 1), keys, vendors)
    assert list(result.pairs["n"]) == [17, 17]  # a has no 3 and no 19, b no 4
    assert result.recall == 1


def test_no_shared_key_is_an_error() -> None:
    with pytest.raises(InputError, match="two vendors that share a key"):
        cross_vendor_recall(torch.zeros(4, 2), ["1", "2", "3", "4"], ["a", "a", "b", "b"])
