"""Backbones keep torchvision's names and shapes, whatever the stem."""

import pytest
import torch
import torchvision

from mastlib.errors import InputError
from mastlib.models.backbones import STEMS, Branched, build_backbone, normalise
from mastlib.models.heads import mlp


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_standard_resnets_load_into_torchvision_strictly(name):
    net = build_backbone(name, stem="standard")
    reference = getattr(torchvision.models, name)()
    reference.fc = torch.nn.Identity()
    reference.load_state_dict(net.state_dict(), strict=True)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net.eval()(x), reference.eval()(x))
    assert net(x).shape == (2, net.dim)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name,width", [("resnet_small", 8), ("resnet18", 32)])
def test_every_stem_gives_the_stated_dimension(name, width, stem):
    net = build_backbone(name, width, stem).eval()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, net.dim)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name,stem",
    [("resnet_small", "patch"), ("resnet_small", "standard"), ("resnet18", "small"), ("resnet50", "standard")],
)
def test_every_copy_of_the_last_stage_starts_as_the_plain_backbone(name, stem, training):
    net = build_backbone(name, 8, stem).train(training)
    branched = Branched(net, 3).train(training)
    images = torch.rand(4, 3, 32, 32)
    features = branched(images)
    assert features.shape == (4, 3 * net.dim) == (4, branched.dim)
    for part in features.chunk(3, dim=1):
        torch.testing.assert_close(part, net(images))


def test_trunk_and_one_copy_are_torchvisions_network_under_its_own_names():
    branched = Branched(build_backbone("resnet18", stem="standard"), 2).eval()
    with torch.no_grad():
        for stage in branched.stages:
            for parameter in stage.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.rand(2, 3, 64, 64)
    for h, part in enumerate(branched(images).chunk(2, dim=1)):
        reference = torchvision.models.resnet18().eval()
        reference.fc = torch.nn.Identity()
        stage = {f"layer4.{name}": value for name, value in branched.stages[h].state_dict().items()}
        reference.load_state_dict(branched.trunk.state_dict() | stage, strict=True)
        torch.testing.assert_close(part, reference(images))


def test_normalise_takes_bytes_and_floats_alike():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(normalise(images), (images / 255.0 - 0.5) / 0.25)
    torch.testing.assert_close(normalise(images), normalise(images.float() / 255))


def test_unknown_backbone_or_stem_is_refused():
    with pytest.raises(InputError, match="resnet19"):
        build_backbone("resnet19")
    with pytest.raises(InputError, match="stem"):
        build_backbone("resnet18", stem="tiny")


def test_mlp_is_linear_norm_relu_with_a_plain_last_layer():
    net = mlp((4, 8, 6))
    assert [type(m).__name__ for m in net] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert net[-1].bias is None and net(torch.rand(3, 4)).shape == (3, 6)
