"""How sensitive each depth of a trained network is to each augmentation alone, from the pixels to the embedding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from mastlib.augment.algebra import descriptors
from mastlib.augment.colour import ColorJitter
from mastlib.augment.ops import check_images, to_float
from mastlib.augment.pipeline import Views
from mastlib.augment.presets import get_pipeline, standard5
from mastlib.errors import check_choice, check_float, check_int, refuse
from mastlib.evaluation.subspaces import BATCH, trained_method
from mastlib.methods.base import Method
from mastlib.models.backbones import normalise
from mastlib.models.staged import staged
from mastlib.runs import Run
from mastlib.training import weights_of

TEMPERATURE = 0.2
METRICS = ("infonce", "positive", "negative", "difference")
STRENGTHS = tuple(i / 8 for i in range(1, 17))
SCALED = {"color": 4, "blur": 1}  # how many of an augmentation's parameters, the first ones, a strength multiplies
STRONGEST = 2.5  # where jitter of .4 has factors from 0 to 2

Told = Mapping[str, Tensor | None]  # by name, what a projector is told of N images: `(N, p)`, or None


def contrast(cosines: Tensor) -> Tensor:
    """METRICS `(4,)`, float64, of `cosines` `(B, B)` between clean image i and changed image j.

    "infonce": 2 T CE(cos_ij / T, i) in nats, T = .2, high where sensitive; 2 T = .4 is the study's factor, so B images that are
    all alike have .4 log B. "positive": mean of cos_ii. "negative": mean of cos_ij over all i != j, the expected value for
    random derangements. "difference": the one less the other.
    Source: CASSLE (Przewięźlikowski et al., 2024), its code.
    """
    cosines = cosines.double()
    n = len(cosines)
    positive, negative = cosines.trace() / n, (cosines.sum() - cosines.trace()) / (n * (n - 1))
    truth = torch.arange(n, device=cosines.device)
    infonce = 2 * TEMPERATURE * functional.cross_entropy(cosines / TEMPERATURE, truth)
    return torch.stack([infonce, positive, negative, positive - negative])


def at_strength(name: str, params: Tensor, strength: float) -> Tensor:
    """`params` `(N, p)` of the augmentation `name`, with what they change about the identity times `strength`.

    At s, jitter of (.4, .4, .4, .1) has factors U(1 - .4 s, 1 + .4 s) and a hue of U(-.1 s, .1 s), blur of U(.1, 2) one of
    U(.1 s, 2 s). Others are left as they are.
    """
    count = SCALED.get(name, 0)
    return torch.cat([params[:, :count] * strength, params[:, count:]], dim=1)


def depths(method: Method, images: Tensor, told: Told) -> Iterator[tuple[str, str, Tensor]]:
    """(layer, what it was told, rows `(N, D)`) of `images` `(N, 3, S, S)` in [0, 1], by depth; one map is held at a time.

    "input", "stem", "stage1", ..., flattened; "backbone", pooled; "projector", where there is one, for each of `told`.
    """
    maps = normalise(images).contiguous(memory_format=method.layout)
    yield "input", "", maps.flatten(1)
    for name, stage in staged(method.backbone).named_children():
        maps = stage(maps)
        yield name, "", maps.flatten(1)
    features = maps.mean(dim=(2, 3))
    yield "backbone", "", features
    if len(method.sizes) > 1:
        for name, descriptor in told.items():
            yield "projector", name, method.projector(features, descriptor)[0]


class Teller:
    """What a run's projector is told of images that one augmentation of `standard5` changed: nothing, unless it is CASSLE's."""

    def __init__(self, run: Run) -> None:
        self.keys = run.spec.condition_on if run.spec.awareness == "cassle" else ()
        self.pipeline = get_pipeline(run.spec.augmentations, run.spec.image_size, run.spec.without)
        jitters = [op for op in (*standard5(2), *self.pipeline.ops) if isinstance(op, ColorJitter)]
        self.units = jitters[0].widths / jitters[-1].widths  # a run is told shares of its own jitter's ranges

    def clean(self, n: int) -> Told:
        """Of `n` images as they are."""
        return {"right": self._told({}, torch.zeros(n, 3))} if self.keys else {"": None}

    def drawn(self, images: Tensor, draw: torch.Generator) -> Tensor | None:
        """Of views of `images` as training draws them."""
        if not self.keys:
            return None
        views = self.pipeline.views(images, "independent", draw, color_diff="color_diff" in self.keys)
        return descriptors(views, self.keys)[0]

    def changed(self, name: str, params: Tensor, moved: Tensor, others: Tensor, drawn: Tensor | None) -> Told:
        """Of images that had `name` alone, which took `moved` `(N, 3)` off their means; and three times wrong, where that differs.

        `others` `(N,)`: whose descriptor each image is given when it is "shuffled"; `drawn`: what is told when "resampled".
        """
        if not self.keys:
            return {"": None}
        if name == "color":
            params = torch.cat([params[:, :4] * self.units, params[:, 4:]], dim=1)
        right = self._told({name: params}, moved if name == "color" else torch.zeros_like(moved))
        wrong = {"identity": self.clean(len(moved))["right"], "shuffled": right[others], "resampled": drawn}
        return {"right": right} | {k: told for k, told in wrong.items() if told is not None and not told.equal(right)}

    def _told(self, params: Mapping[str, Tensor], color_diff: Tensor) -> Tensor:
        rows = {op.name: params.get(op.name, op.identity.expand(len(color_diff), -1))[None] for op in self.pipeline.ops}
        return descriptors(Views(torch.empty(0), rows, {}, torch.empty(0), color_diff[None]), self.keys)[0]


@torch.no_grad()
def layer_sensitivity(
    run: Run,
    images: Tensor,
    augmentations: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    batch: int = BATCH,
    seed: int = 0,
) -> pd.DataFrame:
    """METRICS (`contrast`) between `images` `(M, 3, S, S)` as they are and changed by one augmentation alone, by layer (`depths`).

    Every run is asked the same, so that runs compare: the changes are those of `standard5`, by name (None: all five), each made
    to every image; jitter and blur at each of `strengths` in [.01, 2.5] (`at_strength`), with the same draws at each, the blur's
    kernel as wide as in training; crop, flip and grayscale at 1, as there is no more of them. Batch-norm is in eval mode. Images
    are taken in a random order, `batch` at a time; values are means over full batches, and what is left over is left out.
    "infonce" depends on `batch`, and has a floor that is not 0 where images are alike: that of augmentation "none", strength 0,
    which is what to compare with before one layer, or one run, is called more sensitive than another.

    `told`: what a CASSLE projector is told of the changed image, while of the clean one it is told that nothing was done; "" for
    all else. "right": its own parameters; "identity": that nothing was done; "shuffled": another image's of the batch; "resampled":
    drawn anew as in training. What tells the same as "right" is no control and left out, as "shuffled" is for flip and grayscale.

    Columns: layer, augmentation, strength, told, metric, value, n (images). Holds all maps of one batch, and twice the largest.
    Raises InputError for images, names and numbers that cannot be used.
    Source: CASSLE (Przewięźlikowski et al., 2024), the comparison of layers, and its code with slips mended: eval mode, strengths
    that do not compound, no image that is its own negative or is told its own parameters as another's.
    """
    check_images(images)
    if images.shape[2] != images.shape[3]:
        raise refuse("images", tuple(images.shape), "square ones")
    if check_int("batch", batch, 2) > len(images):
        raise refuse("batch", batch, f"at most {len(images)}, the images given")
    ops = {op.name: op for op in standard5(images.shape[-1])}
    # Each once, or it would be added up twice.
    names = dict.fromkeys(check_choice("augmentation", name, ops) for name in augmentations or ops)
    scales = dict.fromkeys(check_float("strength", strength, 0.01, STRONGEST) for strength in strengths)
    method = trained_method(run, len(weights_of(run, "method").get("classifier.bias", ())))
    teller, draw = Teller(run), torch.Generator().manual_seed(seed)
    of = {name: torch.Generator().manual_seed(seed) for name in names}  # none depends on which others are asked for
    parts = torch.randperm(len(images), generator=draw).split(batch)[: len(images) // batch]
    sums: dict[tuple[str, str, float, str], Tensor] = defaultdict(lambda: torch.zeros(len(METRICS)).double())
    for part in parts:
        before = to_float(images[part])
        clean = {}
        for layer, by, rows in depths(method, before, teller.clean(batch)):
            clean[layer] = functional.normalize(rows)
            sums[layer, "none", 0.0, by] += contrast(clean[layer] @ clean[layer].T)
        cycle = torch.randperm(batch, generator=draw)
        others = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))  # a random derangement, all in one cycle
        drawn = teller.drawn(before, draw)
        for name in names:
            params = ops[name].sample(batch, of[name])
            for strength in scales if name in SCALED else (1.0,):
                given = at_strength(name, params, strength)
                after = ops[name].apply(before, given)
                told = teller.changed(name, given, (before - after).mean(dim=(2, 3)), others, drawn)
                for layer, by, rows in depths(method, after, told):
                    sums[layer, name, strength, by] += contrast(clean[layer] @ functional.normalize(rows).T)
    table = [
        (*key, metric, value, len(parts) * batch)
        for key, total in sums.items()
        for metric, value in zip(METRICS, (total / len(parts)).tolist(), strict=True)
    ]
    return pd.DataFrame(table, columns=["layer", "augmentation", "strength", "told", "metric", "value", "n"])
