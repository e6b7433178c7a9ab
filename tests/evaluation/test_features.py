from __future__ import annotations

import pytest
import torch
from torch import nn

from mastlib.errors import InputError
from mastlib.evaluation.features import extract
from mastlib.models.backbones import normalise


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(n: int = 10) -> torch.Tensor:
    return torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_features_are_the_evaluation_mode_output_whatever_the_batch() -> None:
    net, x = small_net(), images()
    expected = net.eval()(normalise(x)).detach()
    net.train()
    for batch_size in (1, 3, 10, 64):
        features = extract(net, x, batch_size)
        assert features.shape == (10, 4)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


def test_every_modules_mode_and_the_statistics_are_as_before() -> None:
    net = small_net().train()
    net[1].eval()  # a frozen layer stays frozen
    state = {name: value.clone() for name, value in net.state_dict().items()}
    extract(net, images())
    assert [module.training for module in net] == [True, False, True, True, True]
    assert net.training
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_modes_are_restored_when_the_backbone_fails() -> None:
    net = small_net().train()
    with pytest.raises(RuntimeError):
        extract(net, torch.zeros(2, 5, 8, 8, dtype=torch.uint8))
    assert net.training


def test_float_images_give_the_features_of_their_bytes_and_gradients_can_follow() -> None:
    net, x = small_net(), images()
    features = extract(net, x)
    torch.testing.assert_close(extract(net, x.float() / 255), features)
    nn.Linear(4, 2)(features).sum().backward()  # an inference tensor would refuse


def test_broken_features_and_empty_pools_are_one_line_errors() -> None:
    net = small_net()
    with torch.no_grad():
        net[0].bias[1] = float("nan")
    with pytest.raises(InputError, match="10 of 10 images have features that are NaN") as caught:
        extract(net, images())
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="images of shape"):
        extract(small_net(), images(0))
