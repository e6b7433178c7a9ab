"""Features made invariant by hand are invariant exactly, and only to what they should be."""

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from mastlib.data.pools import load_pool
from mastlib.evaluation.baselines import grey
from mastlib.evaluation.features import extract
from mastlib.evaluation.sensitivity import CUES, cue_features, sensitivity
from mastlib.models.backbones import build_backbone
from mastlib.spec import RunSpec

IMAGES = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CHANGES = {"colour": grey, "mirror": lambda x: x.flip(3), "orientation": lambda x: x.rot90(1, (2, 3))}


def test_grey_is_torchvisions():
    assert (grey(IMAGES).int() - TF.rgb_to_grayscale(IMAGES, 3).int()).abs().max() <= 1


@pytest.mark.parametrize("cue", CUES)
def test_features_ignore_their_cue_and_nothing_else(cue):
    net = build_backbone("resnet_small", 8)
    base = cue_features(net, IMAGES)[cue]
    for other, change in CHANGES.items():
        moved = (cue_features(net, change(IMAGES).contiguous())[cue] - base).abs().max()
        implied = cue == other or (cue, other) == ("colour", "colour")
        assert (moved < 1e-4) == implied, (cue, other, float(moved))


def test_without_a_cue_features_are_the_images_own():
    net = build_backbone("resnet_small", 8)
    torch.testing.assert_close(cue_features(net, IMAGES)[""], extract(net, IMAGES))


def test_a_colour_task_suffers_from_grey_images():
    pools = {name: load_pool(name, 32, 2500) for name in ("objects", "latents")}
    spec = RunSpec(backbone="resnet_small", width=16, stem="patch", image_size=32)
    frame = sensitivity(spec, [0, 1], pools, (1e-2, 1.0, 100.0), tasks=["hue", "position"])
    assert set(frame["cue"]) == set(CUES) and set(frame["n"]) == {2}
    change = frame.set_index(["task", "cue"])["mean"]
    assert change["hue", "colour"] < -0.05 < change["hue", "mirror"]
