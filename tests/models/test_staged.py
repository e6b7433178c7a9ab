"""The stages in a row are the backbone without its pooling."""

import pytest
import torch

from mastlib.models.backbones import Branched, build_backbone
from mastlib.models.staged import staged


@pytest.mark.parametrize("copies", [0, 3])
@pytest.mark.parametrize(
    ("name", "stem", "count"), [("resnet_small", "patch", 3), ("resnet18", "standard", 4), ("resnet18", "small", 4)]
)
def test_the_mean_of_the_last_map_is_the_feature_and_weights_are_shared(name, stem, count, copies):
    torch.manual_seed(0)
    backbone = build_backbone(name, 8, stem)
    if copies:
        backbone = Branched(backbone, copies)
        for stage in backbone.stages:  # copies start alike
            for parameter in stage.parameters():
                torch.nn.init.normal_(parameter, std=0.05)
    backbone.eval()
    images = torch.randn(2, 3, 64, 48)
    maps = staged(backbone).eval()
    last = maps(images)
    assert last.ndim == 4 and last.shape[1] == backbone.dim
    assert torch.allclose(last.mean(dim=(2, 3)), backbone(images), atol=1e-6)
    assert [name for name, _ in maps.named_children()] == ["stem", *(f"stage{i}" for i in range(1, count + 1))]
    assert {id(p) for p in maps.parameters()} == {id(p) for p in backbone.parameters()}
