"""Masks come back as trained; overlap knows equal, unrelated and opposite rows; what is shared is counted by hand."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.cluster import hierarchy

from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.masks import groups_of, holders, kinship, read_masks, sharing, tree
from mastlib.methods.masks import overlap
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 12), "image_size": 16, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3,
}  # fmt: skip


def test_masks_of_a_run():
    masks = read_masks(fit(RunSpec(**TINY, awareness="mast", pairing="isolate_one", mask_init=0.9), progress=False))
    assert masks.shape == (5, 12) and 0.8 < masks.mean() < 1
    with pytest.raises(InputError, match="mast"):
        read_masks(fit(RunSpec(**TINY), progress=False))


def test_overlap_is_a_correlation_of_rows():
    a = torch.rand(1, 400, generator=torch.Generator().manual_seed(0))
    b = torch.rand(1, 400, generator=torch.Generator().manual_seed(1))
    result = overlap(torch.cat([a, 0.5 * a + 0.2, 1 - a, b]))
    torch.testing.assert_close(result, torch.corrcoef(torch.cat([a, a, 1 - a, b])), atol=1e-5, rtol=0)


def test_sharing_counts_dimensions():
    masks = torch.tensor([[0.9, 0.9, 0.1, 0.6], [0.9, 0.1, 0.2, 0.5], [0.7, 0.2, 0.3, 0.4]])
    table = sharing(masks, ["a", "b", "c"])
    assert table["chosen"].tolist() == [0.75, 0.5, 0.25]
    assert table["unique"].tolist() == [0.25, 0, 0] and table["all"].tolist() == [0.25] * 3
    assert table["expected unique"].tolist() == pytest.approx([0.75 * 0.5 * 0.75, 0.5 * 0.25 * 0.75, 0.25 * 0.25 * 0.5])
    independent = sharing(
        (torch.rand(4, 20_000, generator=torch.Generator().manual_seed(0)) > 0.6).float(), list("abcd")
    )
    assert independent["unique"].tolist() == pytest.approx(independent["expected unique"].tolist(), abs=0.01)
    with pytest.raises(InputError, match="a row for each of a, b"):
        sharing(masks, ["a", "b"])


def test_holders_count_subspaces_and_expect_what_independent_ones_have():
    masks = torch.tensor([[0.9, 0.9, 0.1, 0.6], [0.9, 0.1, 0.2, 0.5], [0.7, 0.2, 0.3, 0.4]])
    table = holders(masks)  # held by 3, 1, 0 and 2
    assert table["subspaces"].tolist() == [0, 1, 2, 3] and table["share"].tolist() == [0.25] * 4
    by_hand = {0: 0.25 * 0.5 * 0.75, 3: 0.75 * 0.5 * 0.25}
    assert table["expected"][[0, 3]].tolist() == pytest.approx(list(by_hand.values()))
    equal = holders((torch.rand(15, 1000, generator=torch.Generator().manual_seed(0)).argsort(dim=1) < 300).float())
    assert equal["expected"].tolist() == pytest.approx(stats.binom(15, 0.3).pmf(range(16)).tolist())
    assert equal["share"].tolist() == pytest.approx(equal["expected"].tolist(), abs=0.04)
    assert equal["share"].sum() == pytest.approx(1)


def test_groups_are_what_pixels_undergo():
    found = groups_of(get_pipeline("extended15", 32))
    spatial = {"crop", "flip", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    assert {name for name, group in found.items() if group == "spatial"} == spatial and len(found) == 15
    for group in ("spatial", "appearance"):
        assert set(groups_of(get_pipeline(group, 32)).values()) == {group}


def relatives(noise=0.3):
    """Masks of two pairs and a single one, those of a pair much alike."""
    draw = torch.Generator().manual_seed(1)
    base = torch.rand(3, 200, generator=draw)
    rows = base[[0, 1, 2, 0, 1]]
    return (1 - noise) * rows + noise * torch.rand(rows.shape, generator=draw), ["a", "b", "x", "A", "B"]


def test_the_tree_joins_what_is_alike():
    masks, names = relatives()
    joined, order = tree(masks, names)
    groups = dict(zip(names, hierarchy.fcluster(joined, 3, "maxclust"), strict=True))
    assert groups["a"] == groups["A"] != groups["b"] == groups["B"] != groups["x"] != groups["a"]
    assert sorted(order) == sorted(names) and abs(order.index("a") - order.index("A")) == 1
    with pytest.raises(InputError, match="the mask of b is the same for every dimension"):
        tree(torch.stack([masks[0], torch.ones(200)]), ["a", "b"])


def test_kinship_is_the_share_of_relabellings_that_do_as_well():
    masks, names = relatives()
    groups = {name: name.lower() for name in names}
    found = kinship(masks, names, groups)
    alike = np.corrcoef(masks.double().numpy())

    def gap(order):
        """Mean likeness within groups less that between, by loops."""
        within, between = [], []
        for i, j in itertools.combinations(range(5), 2):
            (within if groups[names[order[i]]] == groups[names[order[j]]] else between).append(alike[i, j])
        return np.mean(within), np.mean(between)

    gaps = [np.subtract(*gap(order)) for order in itertools.permutations(range(5))]
    assert (found.within, found.between) == pytest.approx(gap(range(5)))
    assert found.p == pytest.approx(np.mean(np.array(gaps) >= gaps[0] - 1e-9)) and found.p == 8 / 120
    mixed = {"a": "1", "b": "1", "x": "2", "A": "2", "B": "2"}
    assert kinship(masks, names, mixed).p > 0.3
    wrong = kinship(
        torch.rand(8, 300, generator=torch.Generator().manual_seed(3)),
        list("abcdefgh"),
        dict.fromkeys("abcd", "1") | dict.fromkeys("efgh", "2"),
        500,
    )
    assert 0.02 < wrong.p <= 1
    with pytest.raises(InputError, match="x has none"):
        kinship(masks, names, {name: "1" for name in names if name != "x"})
    with pytest.raises(InputError, match="some in two"):
        kinship(masks, names, dict.fromkeys(names, "1"))
