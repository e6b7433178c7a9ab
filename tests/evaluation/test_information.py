"""The bound against answers that are known: nothing, everything that a batch can tell, and Gaussians' closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mastlib.errors import InputError
from mastlib.evaluation.information import colour_histograms, information

SPLIT = np.repeat(["train", "val", "test"], [2048, 512, 512]).astype(object)


def noise(width: int, seed: int) -> torch.Tensor:
    return torch.randn(len(SPLIT), width, generator=torch.Generator().manual_seed(seed))


def test_features_that_are_the_colours_tell_nearly_all_that_a_batch_can_hold():
    colours = noise(8, 0)
    found = information(colours, colours, SPLIT, batch=64, epochs=8)
    assert 0.97 * found.ceiling < found.nats <= found.ceiling == math.log(64)
    assert found.n == 512 and 1 <= len(found.validation) <= 8


def test_features_of_other_images_tell_nothing_and_never_seem_to():
    colours = noise(8, 0)
    found = information(
        colours[torch.randperm(len(colours), generator=torch.Generator().manual_seed(1))], colours, SPLIT, 64, 8
    )
    assert -0.35 < found.nats < 0.05


@pytest.mark.parametrize("correlation", [0.6, 0.9])
def test_the_bound_of_gaussians_lies_below_their_information_and_near_it(correlation):
    a, b = noise(1, 2), noise(1, 3)
    both = torch.cat([a, correlation * a + math.sqrt(1 - correlation**2) * b], dim=1)
    truth = -math.log(1 - correlation**2) / 2
    found = information(both[:, :1], both[:, 1:], SPLIT, batch=128, epochs=12).nats
    assert 0.75 * truth < found < 1.12 * truth  # above by the test images' chance alone


def test_scale_shift_and_dead_dimensions_make_no_difference_and_the_global_dice_are_left_alone():
    colours = noise(4, 4)
    features = torch.cat([colours[:, :2] * 1000 + 7, torch.full((len(SPLIT), 3), 5.0)], dim=1)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    found = information(features, colours, SPLIT, batch=64, epochs=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.nats == pytest.approx(information(colours[:, :2], colours, SPLIT, 64, 3).nats, abs=0.02)
    assert found == information(features, colours, SPLIT, batch=64, epochs=3)
    flat = information(torch.ones(len(SPLIT), 3), colours, SPLIT, 64, 3)
    assert abs(flat.nats) < 0.05


def test_histograms_are_roots_of_shares_in_boxes_of_colour():
    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    found = colour_histograms(images, 4)
    for image, histogram in zip(images, found, strict=True):
        counts, _ = np.histogramdd(image.flatten(1).T.numpy(), bins=4, range=[(0, 256)] * 3)
        np.testing.assert_allclose(histogram.square().numpy(), counts.flatten() / 63, atol=1e-7)
    assert torch.equal(colour_histograms(images.flip(3), 4), found), "where a pixel is makes no difference"
    with pytest.raises(InputError, match="torch.uint8"):
        colour_histograms(images.float())


def test_what_cannot_be_used_is_said():
    with pytest.raises(InputError, match="batch = 513 cannot be used; accepted: at most 512, the images of split val"):
        information(noise(2, 0), noise(2, 1), SPLIT, batch=513)
    with pytest.raises(InputError, match="must match"):
        information(noise(2, 0)[:-1], noise(2, 1), SPLIT)
