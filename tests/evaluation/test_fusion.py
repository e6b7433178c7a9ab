from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from mastlib.data.pools import Pool
from mastlib.errors import InputError
from mastlib.evaluation.features import extract
from mastlib.evaluation.fusion import Fused
from mastlib.evaluation.retrieval import precision_at
from mastlib.evaluation.rows import evaluate_backbone
from mastlib.evaluation.tasks import headline
from mastlib.models.backbones import build_backbone

GRID = (1e-2, 1.0, 100.0)


class Times(nn.Module):
    """A backbone whose features are so many times as large."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * self.inner(images)


def test_raw_features_stand_side_by_side_and_standardised_ones_are_scikit_learns() -> None:
    torch.manual_seed(0)
    nets = [build_backbone("resnet_small", 4, "patch").eval() for _ in range(2)]
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    both = torch.cat([extract(net, images) for net in nets], dim=1)
    torch.testing.assert_close(extract(Fused(nets), images), both)
    scaler = StandardScaler().fit(both[:40])
    expected = torch.tensor(scaler.transform(both), dtype=torch.float32)
    torch.testing.assert_close(extract(Fused(nets, images[:40]), images), expected, atol=1e-3, rtol=1e-3)


def test_what_one_knows_and_the_other_does_not_is_known_to_both_together(
    squares: SimpleNamespace, pools: dict[str, Pool]
) -> None:
    def scores(backbone: nn.Module) -> dict[str, float]:
        return (
            headline(evaluate_backbone(backbone, pools, ["hue", "position"], GRID)).set_index("task")["value"].to_dict()
        )

    colour, place = scores(squares.MeanColour()), scores(squares.Profiles())
    both = scores(Fused([squares.MeanColour(), squares.Profiles()]))
    assert both["hue"] == colour["hue"] == 1 > place["hue"]
    assert both["position"] > 0.9 > 0.1 > colour["position"]


def test_a_loud_backbone_decides_raw_neighbours_and_not_standardised_ones(
    squares: SimpleNamespace, pools: dict[str, Pool]
) -> None:
    pool = pools["objects"]
    colour, place = squares.MeanColour(), squares.Profiles()

    def same_colour(backbone: nn.Module) -> float:
        features = extract(backbone, pool.images)
        return precision_at(features, pool.table["hue"]).value

    loud = [colour, Times(place, 1000.0)]
    assert same_colour(Fused(loud)) == pytest.approx(same_colour(place), abs=0.05)
    quiet = same_colour(Fused([colour, place], pool.images))
    assert same_colour(Fused(loud, pool.images)) == pytest.approx(quiet, abs=1e-6) and quiet > same_colour(place) + 0.1


def test_of_one_backbones_width_each_has_an_equal_share_of_its_own_features() -> None:
    torch.manual_seed(0)
    nets = [build_backbone("resnet_small", 4, "patch").eval() for _ in range(3)]
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    every = [extract(net, images) for net in nets]
    width = every[0].shape[1]
    found = extract(Fused(nets, width=width), images)
    assert found.shape == (40, width) and torch.equal(found, extract(Fused(nets, width=width), images))
    shares = [width // 3 + (place < width % 3) for place in range(3)]
    for part, features in zip(found.split(shares, dim=1), every, strict=True):
        places = torch.cdist(part.T, features.T).argmin(dim=1)
        torch.testing.assert_close(part, features[:, places])
        assert len(set(places.tolist())) == part.shape[1]
    assert not torch.equal(found, extract(Fused(nets, width=width, seed=1), images))
    assert extract(Fused(nets, images, width=width), images).mean(dim=0).abs().max() < 1e-5
    with pytest.raises(InputError, match="width = 2 cannot be used"):
        Fused(nets, width=2)
    with pytest.raises(InputError, match=f"width = {4 * width} cannot be used"):
        extract(Fused(nets, width=4 * width), images)


def test_without_a_backbone_nothing_is_fused() -> None:
    with pytest.raises(InputError, match="backbones"):
        Fused([])
