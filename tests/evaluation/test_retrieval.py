from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mastlib.errors import InputError
from mastlib.evaluation import nearest, retrieval
from mastlib.evaluation.information import colour_histograms
from mastlib.evaluation.retrieval import colour_distance, cross_vendor_recall, neighbours, precision_at


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


@pytest.mark.parametrize("block", [2048, 64])  # in one block, in several of which the last is smaller
def test_neighbours_of_all_are_scikit_learns(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)
    x = np.random.default_rng(1).normal(size=(150, 6)) + 10
    centred = x - x.mean(0)
    theirs = NearestNeighbors(n_neighbors=5, metric="cosine").fit(centred).kneighbors(return_distance=False)
    assert (
        neighbours(torch.tensor(x), 5).tolist() == theirs.tolist()
    )  # asked without queries, it leaves out the image itself
    assert neighbours(torch.tensor(x[:3]), 2).sort(dim=1).values.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_an_image_with_a_double_finds_the_double_and_not_itself() -> None:
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    assert neighbours(x, 1)[:, 0].tolist() == [(i + 30) % 60 for i in range(60)]


def test_precision_by_brute_force() -> None:
    rng = np.random.default_rng(2)
    x, keys = rng.normal(size=(80, 4)), [None if i % 9 == 0 else "once" if i == 1 else "abc"[i % 3] for i in range(80)]
    centred = x - x.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    shares, chances = {}, []
    for i in range(80):
        if keys[i] in (None, "once"):
            continue
        near = sorted((j for j in range(80) if j != i), key=lambda j: -unit[i] @ unit[j])[:4]
        shares[i] = np.mean([keys[j] == keys[i] for j in near])
        chances.append(np.mean([keys[j] == keys[i] for j in range(80) if j != i]))
    found = precision_at(torch.tensor(x), keys, 4)
    assert found.each.to_dict() == pytest.approx(shares)
    assert (found.value, found.chance) == pytest.approx((np.mean(list(shares.values())), np.mean(chances)))
    assert found.n == len(shares) < 80


def test_precision_is_one_for_features_that_are_the_key_and_chance_for_unrelated_ones() -> None:
    keys = np.arange(2000) % 8
    unrelated = torch.randn(2000, 16, generator=torch.Generator().manual_seed(3))
    assert precision_at(torch.eye(16)[keys] + unrelated / 1000, keys).value == 1
    found = precision_at(unrelated, pd.Series(keys).replace(7, np.nan), 4)
    assert found.n == 1750 and found.chance == pytest.approx(249 / 1999)
    assert found.value == pytest.approx(found.chance, abs=4 * np.sqrt(1 / 8 * 7 / 8 / 1750 / 4))


def test_colour_distance_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", 16)
    draw = torch.Generator().manual_seed(4)
    images = (torch.rand(40, 3, 8, 8, generator=draw) ** torch.rand(40, 3, 1, 1, generator=draw) * 255).to(torch.uint8)
    histograms, x = colour_histograms(images), torch.randn(40, 5, generator=draw)
    # 1 - the shared part of two histograms of shares, another form of the same distance.
    shares = histograms.double() ** 2
    away = (1 - (shares[:, None] * shares[None]).sqrt().sum(dim=2)).clamp(min=0).sqrt().numpy()
    found, near = colour_distance(x, histograms, 3), neighbours(x, 3).numpy()
    assert found.each.to_list() == pytest.approx([away[i, near[i]].mean() for i in range(40)], abs=1e-5)
    assert found.value == pytest.approx(found.each.mean())
    assert found.chance == pytest.approx(away[~np.eye(40, dtype=bool)].mean(), abs=1e-5)
    assert found.n == 40


def test_colour_distance_is_zero_for_the_same_colours_and_one_for_none_in_common() -> None:
    plain = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(4)[:, None, None, None].expand(-1, 3, 4, 4)
    histograms, colours = colour_histograms(plain), torch.eye(3).repeat(4, 1)
    assert colour_distance(colours, histograms, 3).value == 0
    found = colour_distance(torch.eye(4).repeat_interleave(3, dim=0), histograms, 2)
    assert (found.value, found.chance) == pytest.approx(
        (1, 8 / 11)
    )  # all but the 3 of 11 others that have the query's colour


def test_neighbours_that_do_not_exist_are_refused() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(5))
    for k in (0, 5):
        with pytest.raises(InputError, match="k = "):
            neighbours(x, k)
    with pytest.raises(InputError, match="as many as images"):
        precision_at(x, ["a"] * 4, 1)
    with pytest.raises(InputError, match="as many as images"):
        colour_distance(x, torch.rand(4, 8), 1)
    with pytest.raises(InputError, match="two images that share a key"):
        precision_at(x, [None, None, "a", "b", "c"], 1)
