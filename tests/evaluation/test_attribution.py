"""Maps of encoders whose answer is known, the axioms of both methods, and a pointing game whose chance is known."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mastlib.data import bank
from mastlib.data.rendered import Rendered
from mastlib.data.splits import concept_split
from mastlib.errors import InputError
from mastlib.evaluation.attribution import (
    Energy,
    grad_cam,
    integrated_gradients,
    object_masks,
    pointing,
    subspace_energies,
)
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.rows import load_backbone
from mastlib.evaluation.subspaces import embeddings, trained_method
from mastlib.models.backbones import build_backbone, normalise
from mastlib.models.staged import staged
from mastlib.spec import RunSpec
from mastlib.stats import interval, paired_bootstrap
from mastlib.tiers import tier_spec
from mastlib.training import fit
from mastlib.transfer import backbone_of

SIDE, SQUARE = 16, 6
GREY = torch.full((1, 3, SIDE, SIDE), 0.5)
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 10), "image_size": 16, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3, "augmentations": "standard5",
}  # fmt: skip


class Redness(nn.Conv2d):
    """One channel: how far a pixel is from grey towards red, nothing for the other colours."""

    def __init__(self):
        super().__init__(3, 1, 1, bias=False)
        self.weight.data = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)

    def forward(self, images):
        return super().forward(images).relu()


def red_only():
    return nn.Sequential(OrderedDict(stem=Redness(), stage1=nn.AvgPool2d(2)))


def squares(n=40):
    """A red, a green and a blue square on grey, apart, in a quadrant each: images, and masks of the squares by colour."""
    draw = torch.Generator().manual_seed(0)
    images, masks = GREY.repeat(n, 1, 1, 1), {name: torch.zeros(n, SIDE, SIDE, dtype=torch.bool) for name in COLOURS}
    for i in range(n):
        for quadrant, name in zip(torch.randperm(4, generator=draw).tolist(), COLOURS, strict=False):
            top, left = (8 * (quadrant // 2), 8 * (quadrant % 2))
            y, x = (torch.randint(0, 8 - SQUARE + 1, (2,), generator=draw) + torch.tensor([top, left])).tolist()
            images[i, :, y : y + SQUARE, x : x + SQUARE] = torch.tensor(COLOURS[name])[:, None, None]
            masks[name][i, y : y + SQUARE, x : x + SQUARE] = True
    return images, masks


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_backbone("resnet_small", 8).eval()


def noise(n, seed=1, side=SIDE):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stage", ["stem", "stage1", None])
def test_grad_cam_of_what_sees_red_is_on_the_red_square(stage):
    images, masks = squares()
    maps = grad_cam(Energy(red_only(), GREY), images, stage)
    on = {name: pointing(maps, mask) for name, mask in masks.items()}
    assert (on["red"]["hit"] == 1).all() and on["red"]["share"].mean() > (0.99 if stage == "stem" else 0.75)
    assert (on["green"]["hit"] == 0).all() and (on["blue"]["hit"] == 0).all()
    assert on["red"]["chance"].tolist() == pytest.approx([SQUARE**2 / SIDE**2] * len(images))


def test_integrated_gradients_of_what_sees_red_are_on_the_red_square_and_sum_to_its_energy():
    images, masks = squares()
    energy = Energy(red_only(), GREY)
    maps = integrated_gradients(energy, images, steps=2)
    assert (maps[masks["red"]] > 0).all() and (maps[~masks["red"]] == 0).all()
    redness = 6 * SQUARE**2 / SIDE**2  # (1, 0, 0) is (2, -2, -2) once normalised; grey is 0
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.full((len(images),), redness**2))


def test_what_there_is_less_of_than_in_the_reference_lights_up_nowhere():
    images, _ = squares(4)
    red = torch.tensor(COLOURS["red"]).view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)
    assert (grad_cam(Energy(red_only(), red), images) == 0).all()


def test_only_the_quadrant_that_is_read_is_attributed():
    class Corner(nn.Module):
        def forward(self, images):
            return images.mean(dim=1, keepdim=True)[..., :8, :8] + 0.1

    energy, images = Energy(nn.Sequential(OrderedDict(stem=Corner())), GREY), noise(5)
    maps = integrated_gradients(energy, images, steps=2)
    assert (maps[:, :8, :8] != 0).all() and (maps[:, 8:] == 0).all() and (maps[:, :, 8:] == 0).all()


def test_agreement_is_on_what_two_images_have_in_common():
    class Channels(nn.Module):
        """How much of each of three colours, one a channel."""

        def forward(self, images):
            return (2 * images - images.sum(dim=1, keepdim=True)).relu()

    images, masks = squares()
    energy = Energy(nn.Sequential(OrderedDict(stem=Channels())), GREY)
    for name, colour in COLOURS.items():
        others = torch.tensor(colour).view(1, 3, 1, 1).expand_as(images)
        maps = grad_cam(energy, images, others=others)
        signed = integrated_gradients(energy, images, others, steps=2)
        for map_ in (maps, signed.abs()):
            assert pointing(map_, masks[name])["share"].min() > 0.999, name


@pytest.mark.parametrize("weighed", [False, True])
def test_grad_cam_at_the_last_stage_is_its_closed_form(net, weighed):
    images, reference = noise(6), noise(20, 2)
    mask = torch.rand(net.dim, generator=torch.Generator().manual_seed(3)) if weighed else None
    maps = staged(net)(normalise(images)).detach()
    mean = net(normalise(reference)).mean(dim=0)
    slope = 2 * (maps.mean(dim=(2, 3)) - mean) * (mask.square() if weighed else 1) / maps[0, 0].numel()
    coarse = torch.einsum("nc,nchw->nhw", slope, maps).relu()
    assert (coarse > 0).any() and (coarse == 0).any()
    expected = F.interpolate(coarse[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    found = grad_cam(Energy(staged(net), reference, mask=mask), images)
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("agreement", [False, True])
def test_integrated_gradients_are_complete(net, agreement):
    images, others = noise(4), noise(4, 5) if agreement else None
    energy = Energy(staged(net), noise(20, 2))
    with torch.no_grad():
        u = None if others is None else energy.deviation(others)
        gain = energy(images, u) - energy(GREY.expand_as(images), u)
    maps = integrated_gradients(energy, images, others, steps=512)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), gain, rtol=0.01, atol=0.01 * float(gain.abs().max()))


def test_maps_do_not_depend_on_the_batch_or_on_bytes_and_leave_the_backbone_as_it_was(net, monkeypatch):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = (255 * noise(7)).byte()
    energy = Energy(staged(net), images)
    together = grad_cam(energy, images, "stage1"), integrated_gradients(energy, images, images, steps=4)
    monkeypatch.setattr("mastlib.evaluation.attribution.BATCH", 3)
    apart = grad_cam(energy, images.float() / 255, "stage1"), integrated_gradients(energy, images, images, steps=4)
    for one, other in zip(together, apart, strict=True):
        assert one.shape == (7, SIDE, SIDE) and one.dtype == torch.float32 and not one.requires_grad
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()


def test_a_masks_energies_are_those_of_the_runs_embeddings():
    run = fit(RunSpec(**TINY, awareness="mast", pairing="isolate_one", mask_type="blocks"), progress=False)
    images, reference = noise(5), noise(30, 2)
    energies, names = subspace_energies(run, reference), run.info["augmentations"]
    assert list(energies) == [*names, "full space"]
    with torch.no_grad():
        encode = embeddings(trained_method(run))
        squared = (encode(images) - encode(reference).mean(dim=0)).square()
        for k, name in enumerate(names):
            torch.testing.assert_close(energies[name](images), squared @ read_masks(run)[k], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(energies["full space"](images), squared.sum(dim=1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(grad_cam(energies[names[0]], images), grad_cam(energies[names[1]], images))


def test_random_maps_point_by_chance_and_constant_ones_exactly_so():
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(3000, 12, 12, generator=draw) < torch.linspace(0.05, 0.6, 3000)[:, None, None]
    found = pointing(torch.rand(3000, 12, 12, generator=draw), masks)
    assert found["chance"].tolist() == pytest.approx(masks.float().mean(dim=(1, 2)).tolist())
    assert set(found["hit"]) == {0, 1}
    error = np.sqrt((found["chance"] * (1 - found["chance"])).mean() / len(found))
    assert abs(found["hit"].mean() - found["chance"].mean()) < 3 * error
    assert found["share"].mean() == pytest.approx(found["chance"].mean(), abs=0.003)
    for flat in (torch.zeros(3000, 12, 12), torch.ones(3000, 12, 12)):
        flat = pointing(flat, masks)
        assert flat["hit"].tolist() == pytest.approx(flat["chance"].tolist())
        assert flat["share"].tolist() == pytest.approx(flat["chance"].tolist())


def test_pointing_by_hand():
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 1.0]]])
    masks = torch.tensor([[[True, False], [True, False]], [[False, True], [False, True]]])
    found = pointing(maps, masks)
    assert found["hit"].tolist() == [1, 0.5] and found["chance"].tolist() == [0.5, 0.5]
    assert found["share"].tolist() == pytest.approx([3 / 4, 3 / 5])


def test_the_middle_is_no_answer_in_object_scenes():
    found = object_masks(16, 1000)
    assert found.images.shape == found.twins.shape == (1000, 3, 16, 16) and found.masks.shape == (1000, 16, 16)
    area, best = found.masks.float().mean(dim=(1, 2)), found.masks.float().mean(dim=0).max()
    assert (area > 0).float().mean() > 0.98 and 0.05 < area.mean() < 0.15  # at 16 px the thinnest drawings vanish
    assert best < 0.25  # the hits of always naming the same pixel; 0.7 with the places and sizes of pool "latents"
    edges = found.images.float().diff(dim=3).abs().sum(dim=1)
    left, right = found.masks[:, :, :-1], found.masks[:, :, 1:]
    assert edges[left != right].mean() > 4 * edges[~left & ~right].mean()  # the mask is where the object is


def test_object_scenes_and_their_twins_show_the_same_test_concept_and_share_nothing_else(monkeypatch):
    drawn = {}

    def keep(name, latents, size, masks=False):
        drawn[name] = latents
        count = len(latents["x"])
        return Rendered(torch.zeros(count, 3, 8, 8), torch.zeros(count, 1, 4), torch.zeros(count, 1, 8, 1).byte(), "")

    monkeypatch.setattr("mastlib.evaluation.attribution.rendered", keep)
    object_masks(8, 2000)
    (first, other), table = (drawn["pointing"], drawn["twins"]), bank.load_table()
    shown = table["concept"].iloc[first["sprite"][:, 0]]
    assert set(concept_split(shown)) == {"test"}
    assert shown.value_counts().max() < 20  # of 400 concepts, though some have a hundred drawings
    assert (first["sprite"] == other["sprite"]).all() and (first["hue_shift"] == other["hue_shift"]).all()
    for name in ("x", "y", "scale", "rotation", "background_hue", "background_value", "exposure", "light_direction"):
        assert abs(np.corrcoef(first[name].ravel(), other[name].ravel())[0, 1]) < 0.1, name


@pytest.mark.slow
def test_a_trained_network_points_inside_the_object_more_often_than_random_ones_do():
    """By the agreement of two scenes with one drawing, at every stage. The energy itself is of the background in the end."""
    spec = tier_spec("laptop", seed=0)
    scenes, reference = object_masks(spec.image_size, 600), object_masks(spec.image_size, 1600).images[600:]
    trained, untrained = load_backbone(fit(spec, progress=False)), []
    for seed in range(3):
        torch.manual_seed(seed)
        untrained.append(backbone_of(spec).eval())

    def hits(backbone, stage, others=None):
        maps = grad_cam(Energy(staged(backbone), reference), scenes.images, stage, others)
        return pointing(maps, scenes.masks)

    stages = [name for name, _ in staged(trained).named_children()]
    for stage in stages:
        found = hits(trained, stage, scenes.twins)["hit"]
        by_chance = np.mean([hits(one, stage, scenes.twins)["hit"] for one in untrained], axis=0)
        assert interval(found - by_chance).low > 0, stage
    energy = hits(trained, stages[-1])
    assert paired_bootstrap(energy["chance"], energy["hit"]).low > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: grad_cam(e, noise(2), "stage9"), "stage = 'stage9'.*stem, stage1"),
        (lambda e: grad_cam(e, noise(2), others=noise(3)), "2 images and 3 others"),
        (lambda e: integrated_gradients(e, noise(2), steps=0), "steps"),
        (lambda e: Energy(e.stages, noise(0)), "reference"),
        (lambda e: Energy(e.stages, noise(2), mask=torch.ones(7)), "mask"),
        (lambda e: pointing(-torch.ones(1, 2, 2), torch.ones(1, 2, 2).bool()), "abs"),
        (lambda e: pointing(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2).bool()), "finite"),
        (lambda e: pointing(torch.ones(1, 2, 2), torch.ones(1, 2, 3).bool()), r"\(1, 2, 3\)"),
        (lambda e: pointing(torch.ones(1, 2, 2), torch.ones(1, 2, 2)), "masks bool"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Energy(red_only(), GREY))


@pytest.mark.parametrize("changes", [{}, {"awareness": "mast", "pairing": "isolate_one", "mask_on": "representation"}])
def test_runs_without_masks_on_the_embedding_are_refused(changes):
    with pytest.raises(InputError, match="mask_on = 'embedding'"):
        subspace_energies(fit(RunSpec(**TINY, **changes), progress=False), noise(4))
