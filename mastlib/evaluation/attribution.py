"""Where in the image a backbone or a masked subspace looks, by Grad-CAM and integrated gradients, and if that is the object."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from torch import Tensor, nn

from mastlib.augment.ops import check_images, to_float
from mastlib.data import bank, scenes
from mastlib.data.rendered import rendered, unpack
from mastlib.data.splits import concept_split
from mastlib.errors import InputError, check_choice, check_int, refuse
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.subspaces import trained_method
from mastlib.evaluation.whitening import FULL
from mastlib.models.backbones import PIXEL_MEAN, normalise
from mastlib.models.staged import staged
from mastlib.runs import Run

BATCH = 256  # images, or images times steps, at once
SCENES_SEED = 9  # scenes of different sets never coincide: `data.pools` and `evaluation.invariance` have 1 to 8
#: One small object anywhere. With the sizes and places of the pool "latents" the middle pixel is on the object in 70% of scenes,
#: and a map that knows nothing scores so much; here it is in 19%, and an object covers 9% of its scene.
SCATTERED = replace(scenes.LATENTS, x=scenes.MULTIPLE.x, y=scenes.MULTIPLE.y, scale=scenes.MULTIPLE.scale)


class Energy(nn.Module):
    """E(x) = |u(x)|^2, u(x) = m * (h(x) - mean h), of images `(N, 3, H, W)`, uint8 or float in [0, 1] -> `(N,)`: how unlike others.

    h: the mean of the last map of `stages` (see `models.staged.staged`), `(N, d)`, then `projector`, a method's own, if given:
    `(N, D)`. mean h: over the images `reference`. m: `mask` `(D,)`, ones if None. The modules are copied, in evaluation mode and
    without gradients of their own. Raises InputError for a reference that cannot be used and a mask of another length.
    """

    mean: Tensor
    mask: Tensor

    def __init__(
        self, stages: nn.Sequential, reference: Tensor, projector: nn.Module | None = None, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        self.stages, self.projector = copy.deepcopy(stages), copy.deepcopy(projector)
        self.eval().requires_grad_(False)
        check_images(reference)
        if not len(reference):
            raise refuse("reference", tuple(reference.shape), "at least one image")
        with torch.no_grad():
            mean = torch.cat([self.encode(part) for part in reference.split(BATCH)]).mean(dim=0)
        weights = torch.ones_like(mean) if mask is None else mask.detach().float()
        if weights.shape != mean.shape:
            raise refuse("mask", tuple(weights.shape), f"a tensor {tuple(mean.shape)}")
        self.register_buffer("mean", mean)
        self.register_buffer("mask", weights)

    def encode(self, images: Tensor) -> Tensor:
        """h(x), `(N, D)`."""
        features = self.stages(normalise(images)).mean(dim=(2, 3))
        return features if self.projector is None else self.projector(features, None)[0]

    def deviation(self, images: Tensor) -> Tensor:
        """u(x), `(N, D)`."""
        return self.mask * (self.encode(images) - self.mean)

    def forward(self, images: Tensor, others: Tensor | None = None) -> Tensor:
        """E(x); with `others` `(N, D)`, the deviations u(y) of other images y, their agreement u(x) . u(y) instead."""
        mine = self.deviation(images)
        return (mine * (mine if others is None else others)).sum(dim=1)


def subspace_energies(run: Run, reference: Tensor) -> dict[str, Energy]:
    """The `Energy` of each masked subspace of a MAST run's embeddings, by augmentation, and of the "full space".

    `reference` `(M, 3, S, S)`: what the mean is taken over. Raises InputError for a run without masks on the embedding.
    """
    if (run.spec.awareness, run.spec.mask_on) != ("mast", "embedding"):
        raise refuse("run", run.id, "a run with awareness = 'mast' and mask_on = 'embedding'")
    method = trained_method(run)
    stages = staged(method.backbone)
    masks = dict(zip(run.info["augmentations"], read_masks(run), strict=True))
    named: dict[str, Tensor | None] = {**masks, FULL: None}
    return {name: Energy(stages, reference, method.projector, mask) for name, mask in named.items()}


def grad_cam(energy: Energy, images: Tensor, stage: str | None = None, others: Tensor | None = None) -> Tensor:
    """relu(sum_c a_c A_c), upsampled bilinearly: which places raise the energy, `(N, H, W)` float on the CPU, at least 0.

    A `(N, C, h, w)`: the map after the child `stage` of `energy.stages` (None: the last); a_c: the mean over places of dE / dA_c.
    images `(N, 3, H, W)`, uint8 or float in [0, 1]. What makes an image unlike others is often its background. With `others`, as
    many images, E is the agreement u(x) . u(y) with each one's other, and the map shows what the two have in common. At the last
    stage, without a projector, the energy's a = 2 m^2 (h(x) - mean h) / hw: an image that only has less of everything than the
    reference has a map of zeros.
    Raises InputError for an unknown stage. Source: Selvaraju et al. 2017, by captum's LayerGradCam.
    """
    stages = dict(energy.stages.named_children())
    cam = LayerGradCam(energy, stages[list(stages)[-1] if stage is None else check_choice("stage", stage, stages)])

    def of(part: Tensor, other: Tensor | None) -> Tensor:
        coarse = cam.attribute(part, additional_forward_args=other, relu_attributions=True)
        found: Tensor = LayerAttribution.interpolate(coarse, part.shape[-2:], "bilinear")[:, 0]
        return found

    return _maps(of, energy, images, others, BATCH)


def integrated_gradients(energy: Energy, images: Tensor, others: Tensor | None = None, steps: int = 64) -> Tensor:
    """sum_c (x_c - b) * integral over t in [0, 1] of dE(b + t (x - b)) / dx_c, b mid-grey: `(N, H, W)` float on the CPU, signed.

    Summed over a map's pixels it is E(x) - E(b), up to the quadrature with `steps` nodes (completeness). A pixel that is grey has
    0. For `pointing` take `.abs()`. `images`, `others`: as for `grad_cam`.
    Source: Sundararajan et al. 2017, by captum's IntegratedGradients.
    """
    check_int("steps", steps, 1)
    gradients = IntegratedGradients(energy)

    def of(part: Tensor, other: Tensor | None) -> Tensor:
        by_channel: Tensor = gradients.attribute(part, PIXEL_MEAN, additional_forward_args=other, n_steps=steps)
        return by_channel.sum(dim=1)

    return _maps(of, energy, images, others, max(1, BATCH // steps))


def _maps(
    of: Callable[[Tensor, Tensor | None], Tensor], energy: Energy, images: Tensor, others: Tensor | None, batch: int
) -> Tensor:
    """`of` for `batch` images at once, as floats that take a gradient, and their others' deviations."""
    check_images(images)
    if others is not None:
        check_images(others)
        if len(others) != len(images):
            raise InputError(f"there are {len(images)} images and {len(others)} others; each needs one")
    found, here = [], energy.mean.device
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        with torch.no_grad():
            other = None if others is None else energy.deviation(others[part].to(here))
        inputs = to_float(images[part].to(here)).clone().requires_grad_()
        found.append(of(inputs, other).detach().float().cpu())
    return torch.cat(found)


def pointing(maps: Tensor, masks: Tensor) -> pd.DataFrame:
    """The pointing game, a row for each image: does the map's maximum lie on the object?

    maps `(N, H, W)`, at least 0; masks `(N, H, W)` bool, the object's visible pixels. `hit`: 1 or 0; where several pixels share
    the maximum, the share of these on the object. `share`: of the map's sum, on the object. `chance`: the object's share of the
    area, which is what a random map has of both, and a constant one exactly. Of these columns `stats.interval` and
    `stats.paired_bootstrap` make means with intervals.
    Raises InputError for shapes that differ, and maps with values that are negative or not finite.
    Source: Zhang et al. 2016 (hit, here without their margin of 15 pixels); Wang et al. 2020, Score-CAM (share).
    """
    if maps.ndim != 3 or maps.shape != masks.shape or masks.dtype != torch.bool:
        raise InputError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} {masks.dtype} cannot be used; accepted: both (N, H, W), "
            "masks bool"
        )
    values, inside = maps.double().flatten(1), masks.flatten(1).double()
    if not values.isfinite().all() or (values < 0).any():
        raise InputError("maps with values that are negative or not finite cannot be used; of signed ones take .abs()")
    highest = (values == values.amax(dim=1, keepdim=True)).double()
    chance, total = inside.mean(dim=1), values.sum(dim=1)
    share = torch.where(total > 0, (values * inside).sum(dim=1) / total, chance)
    hit = (highest * inside).sum(dim=1) / highest.sum(dim=1)
    return pd.DataFrame({"hit": hit.numpy(), "share": share.numpy(), "chance": chance.numpy()})


class ObjectScenes(NamedTuple):
    """`images` `(N, 3, S, S)` uint8 of one object each; `masks` `(N, S, S)` bool, its visible pixels; `twins` `(N, 3, S, S)` uint8:
    the same drawing in the same colours, in another scene that has nothing else in common with the first."""

    images: Tensor
    masks: Tensor
    twins: Tensor


def object_masks(size: int, count: int, ranges: scenes.Ranges = SCATTERED) -> ObjectScenes:
    """`count` scenes of the test split's concepts, each as likely, with latents from `ranges`; twins as in pre-training."""
    check_int("count", count, 1)
    table, photos, index = bank.load_table(), bank.background_count(), np.arange(count)
    each = (concept_split(table["concept"]) == "test") / table.groupby("concept")["concept"].transform("size")
    latents = scenes.draw(SCENES_SEED, index, ranges, photos, weights=each.to_numpy(dtype=np.float64))
    twins = scenes.draw(SCENES_SEED + 100, index, scenes.OBJECTS, photos, sprite=latents["sprite"])
    twins["hue_shift"] = latents["hue_shift"]
    made = rendered("pointing", latents, size, masks=True)
    assert made.masks is not None  # they were asked for
    return ObjectScenes(made.images, unpack(made.masks, size)[:, 0], rendered("twins", twins, size).images)
