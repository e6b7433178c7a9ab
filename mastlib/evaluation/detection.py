"""Object detection and instance segmentation on a backbone: Faster R-CNN and Mask R-CNN, judged as COCO does."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from mastlib.data import bank
from mastlib.data.pools import Pool
from mastlib.data.rendered import unpack
from mastlib.errors import InputError, check_choice, check_float, check_int, refuse
from mastlib.models.backbones import PIXEL_MEAN, PIXEL_STD
from mastlib.models.staged import staged
from mastlib.progress import bar
from mastlib.stats import Interval, jackknife

CHANNELS, HIDDEN = 32, 128  # of the map that is read, and of what reads a box from it
ANCHORS, RATIOS = (
    (0.2, 0.35, 0.5),
    (0.5, 1.0, 2.0),
)  # sides in those of a scene: objects have 0.25 to 0.5, or less if covered
BOX_SIDE, MASK_SIDE = 4, 8  # cells that a region is pooled to
REGIONS, PROPOSALS, CANDIDATES, KEPT = 32, 100, 200, 20  # per scene, of at most five objects; COCO's scenes have dozens
EPOCHS, LR, BATCH, DECAY, WARM_UP, CLIP = 12, 2e-3, 8, 1e-4, 0.15, 5.0
AT_ONCE = 64  # scenes looked at in a test
GROUPS = 10  # of the test's images, in the interval


@dataclass(frozen=True)
class DetectionResult:
    """A tested detector. `ap` is COCO's: the area under precision over recall, averaged over `classes` and the overlaps (IoU)
    .5, .55, ..., .95 that a box (or a mask) must have with the true one to count; `ap50` and `ap75` ask for .5 and .75; all in
    [0, 1]. `low` and `high` bound its 95% interval over the `n` scenes it was tested on (see `average_precision`); `curve` is
    the mean loss of each epoch."""

    ap: float
    ap50: float
    ap75: float
    low: float
    high: float
    n: int
    classes: tuple[str, ...]
    curve: tuple[float, ...]


def detect(
    backbone: nn.Module,
    pool: Pool,
    masks: bool = False,
    frozen: bool = False,
    seed: int = 0,
    epochs: int = EPOCHS,
    lr: float = LR,
    batch_size: int = BATCH,
    side: str = "test",
) -> DetectionResult:
    """A Faster R-CNN on a copy of `backbone` (masks: a Mask R-CNN), trained on the pool's "train" and tested on its `side`.

    It finds each object's box and category in the bank (masks: its mask, which `ap` is then of); objects that have no category,
    or are covered, do not count. The backbone runs where it is. frozen: only what reads its maps is learned, and its batch norms
    keep their statistics; otherwise all of it is trained, from where it stands. AdamW, one cycle of `lr`, scenes mirrored at
    random; `epochs` times over the training scenes. The defaults were chosen on "val" with untrained and trained backbones, which
    is what `side` is for; nothing here reads the test scenes before the test. Deterministic in `seed` on a CPU.

    Raises InputError for a pool without boxes (masks: without masks), categories or one of the splits, and where the loss is not
    finite, as a backbone's broken weights make it.
    Source: Ren et al. 2015; He et al. 2017; Lin et al. 2017 for the two levels of maps; the protocol follows MoCo (He et al. 2020,
    section 4.2.1): batch norms are trained, and one more is put behind the backbone.
    """
    check_int("seed", seed, 0)
    check_int("epochs", epochs, 1)
    check_int("batch_size", batch_size, 1)
    check_float("lr", lr, 0)
    check_choice("side", side, ("val", "test"))
    scenes = _Scenes(pool, masks, next(backbone.parameters()).device)
    train, test = scenes.rows("train"), scenes.rows(side)
    # torchvision draws boxes to learn from where they are.
    with torch.random.fork_rng(devices=[scenes.device] if scenes.device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = _detector(backbone, pool.images.shape[-1], len(scenes.classes), masks, frozen).to(scenes.device)
        curve = _train(net, scenes, train, epochs, lr, batch_size)
    (ap, low, high, n), ap50, ap75 = average_precision(_looked(net, scenes, test), masks)
    return DetectionResult(ap, ap50, ap75, low, high, n, scenes.classes, tuple(curve))


def average_precision(
    images: Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]], masks: bool = False, groups: int = GROUPS
) -> tuple[Interval, float, float]:
    """COCO's average precision of what was found in each image, given as (found, truth); at an overlap of .5, and of .75.

    Both hold `labels` `(K,)` and `boxes` `(K, 4)` (masks: `masks` `(K, S, S)` bool), found also `scores` `(K,)`. By torchmetrics
    and COCO's own code. The interval is `stats.jackknife`'s, with the images in `groups` parts. Raises InputError for fewer images.
    """
    # The thresholds are COCO's: torchmetrics rounds them to float32, and an overlap that is just .6 does not count there.
    metric = MeanAveragePrecision(
        iou_type="segm" if masks else "bbox", backend="pycocotools", compute_with_cache=False,
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist(),
    )  # fmt: skip
    for found, truth in images:
        metric.update([found], [truth])
    every = {name: list(values) for name, values in metric.metric_state.items()}
    n = len(every["groundtruth_labels"])
    check_int("groups", groups, 2)
    if n < groups:
        raise refuse("images", n, f"at least {groups}, as many as the jackknife has groups")

    def judged(kept: np.ndarray) -> list[float]:
        for name, values in every.items():
            setattr(metric, name, list(compress(values, kept)))
        judgement = metric.compute()
        # It says -1 where there is nothing to average, as where no mask was found at all.
        return [max(float(judgement[name]), 0.0) for name in ("map", "map_50", "map_75")]

    _, ap50, ap75 = judged(np.ones(n, dtype=bool))
    return jackknife(lambda kept: judged(kept)[0], np.arange(n), groups), ap50, ap75


class _Scenes:
    """The pool's scenes as torchvision takes them, and the names of the classes 1, 2, ...; 0 is the background."""

    def __init__(self, pool: Pool, masks: bool, device: torch.device) -> None:
        if pool.boxes is None or pool.sprites is None:
            raise refuse("pool", pool.name, "one with boxes of several objects, such as several")
        if masks and pool.masks is None:
            raise refuse("masks", masks, f"False: pool {pool.name} has none")
        category = bank.load_table()["category"]
        self.classes = tuple(sorted(category.dropna().unique()))
        codes = torch.from_numpy(pd.Categorical(category, categories=self.classes).codes.astype(np.int64) + 1)
        seen = (pool.boxes[..., 2:] > pool.boxes[..., :2]).all(-1) & (pool.sprites >= 0)
        self.labels = torch.where(seen, codes[pool.sprites.clamp(min=0)], 0)  # 0: does not count
        self.pool, self.masks, self.device = pool, masks, device

    def rows(self, side: str) -> Tensor:
        """Indices of a split's scenes; InputError where there is nothing to learn or find in them."""
        if "split" not in self.pool.table:
            raise InputError(f"pool {self.pool.name} has no column 'split', which says what to train and test on")
        rows = torch.from_numpy(np.flatnonzero(self.pool.table["split"] == side))
        if not self.labels[rows].any():
            raise InputError(
                f"pool {self.pool.name} has no object with a category in split {side}; detection needs some"
            )
        return rows

    def __call__(self, row: int, mirror: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """An image `(3, S, S)` in [0, 1], and `boxes` `(K, 4)`, `labels` `(K,)` and `masks` `(K, S, S)` bool of what counts."""
        size, kept = self.pool.images.shape[-1], self.labels[row] > 0
        assert self.pool.boxes is not None
        image, truth = self.pool.images[row], {"boxes": self.pool.boxes[row, kept], "labels": self.labels[row, kept]}
        if self.masks:
            assert self.pool.masks is not None
            truth["masks"] = unpack(self.pool.masks[row, kept], size)
        if mirror:
            image = image.flip(-1)
            x0, y0, x1, y1 = truth["boxes"].unbind(1)
            truth |= {"boxes": torch.stack([size - x1, y0, size - x0, y1], dim=1)}
            truth |= {"masks": truth["masks"].flip(-1)} if self.masks else {}
        return image.to(self.device) / 255, {name: value.to(self.device) for name, value in truth.items()}


class _Maps(nn.Module):
    """Normalised images `(N, 3, S, S)` -> one map `(N, CHANNELS, h, w)` that reads a backbone's last two resolutions.

    The last map alone has cells of a quarter of an object's side; the last one before it was halved places boxes better.
    """

    out_channels = CHANNELS  # torchvision asks for it

    def __init__(self, backbone: nn.Module, size: int, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.stages = staged(copy.deepcopy(backbone)).eval().requires_grad_(not frozen)
        with torch.no_grad():
            blank = next(self.stages.parameters()).new_zeros(1, 3, size, size)
            widths = [found.shape[1] for found in self._last(blank).values()]
        # Its batch norm gives the maps of all backbones one scale, so that one learning rate serves them.
        self.pyramid = FeaturePyramidNetwork(widths, CHANNELS, norm_layer=nn.BatchNorm2d)

    def _last(self, maps: Tensor) -> dict[str, Tensor]:
        """The last map of each of the last two resolutions, the finer first."""
        found = {}
        for stage in self.stages:
            maps = stage(maps)
            found[str(maps.shape[-1])] = maps
        return dict(list(found.items())[-2:])

    def forward(self, images: Tensor) -> Tensor:
        return next(iter(self.pyramid(self._last(images)).values()))

    def train(self, mode: bool = True) -> _Maps:
        super().train(mode)
        # Fine-tuned, batch norms use the batch and learn its statistics: scenes are not the images the backbone knows.
        self.stages.train(mode and not self.frozen)
        return self


def _detector(backbone: nn.Module, size: int, classes: int, masks: bool, frozen: bool) -> FasterRCNN:
    """The network for scenes of `size` px, with new weights but for the backbone's."""
    maps = _Maps(backbone, size, frozen)
    parts = {
        "min_size": size, "max_size": size, "image_mean": [PIXEL_MEAN] * 3, "image_std": [PIXEL_STD] * 3,
        "rpn_anchor_generator": AnchorGenerator((tuple(share * size for share in ANCHORS),), (RATIOS,)),
        "rpn_pre_nms_top_n_train": CANDIDATES, "rpn_pre_nms_top_n_test": CANDIDATES,
        "rpn_post_nms_top_n_train": PROPOSALS, "rpn_post_nms_top_n_test": PROPOSALS // 2,
        "rpn_batch_size_per_image": 2 * REGIONS, "box_batch_size_per_image": REGIONS, "box_detections_per_img": KEPT,
        # One sample a cell: cells are about as fine as the map.
        "box_roi_pool": MultiScaleRoIAlign(["0"], BOX_SIDE, 1),
        "box_head": TwoMLPHead(CHANNELS * BOX_SIDE**2, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, classes + 1),
    }  # fmt: skip
    if not masks:
        return FasterRCNN(maps, **parts)
    return MaskRCNN(
        maps, **parts, mask_roi_pool=MultiScaleRoIAlign(["0"], MASK_SIDE, 1),
        mask_head=MaskRCNNHeads(CHANNELS, (HIDDEN // 4,) * 2, 1),
        mask_predictor=MaskRCNNPredictor(HIDDEN // 4, HIDDEN // 4, classes + 1),
    )  # fmt: skip


def _train(net: FasterRCNN, scenes: _Scenes, rows: Tensor, epochs: int, lr: float, batch_size: int) -> list[float]:
    """Trains the network in place; the mean loss of each epoch."""
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    steps = math.ceil(len(rows) / batch_size)
    optimiser = torch.optim.AdamW(learned, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, epochs * steps, pct_start=WARM_UP)
    net.train()
    curve = []
    with bar(epochs * steps, "detection") as shown:
        for _ in range(epochs):
            losses = []
            for batch in rows[torch.randperm(len(rows))].tensor_split(steps):  # of one size, give or take a scene
                mirrored = torch.rand(len(batch)) < 0.5
                examples = [scenes(*one) for one in zip(batch.tolist(), mirrored.tolist(), strict=True)]
                loss = sum(net([image for image, _ in examples], [truth for _, truth in examples]).values())
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise InputError(
                        f"the detector's loss is {losses[-1]}; accepted: a backbone whose weights are finite"
                    )
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(learned, CLIP)
                optimiser.step()
                schedule.step()
                shown.update()
            curve.append(float(np.mean(losses)))
    return curve


@torch.no_grad()
def _looked(net: FasterRCNN, scenes: _Scenes, rows: Tensor) -> Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What the network finds in each scene, and what is there, on the CPU."""
    net.eval()
    for batch in rows.split(AT_ONCE):
        examples = [scenes(row) for row in batch.tolist()]
        for found, (_, truth) in zip(net([image for image, _ in examples]), examples, strict=True):
            if scenes.masks:
                found["masks"] = found["masks"][:, 0] > 0.5
            yield (
                {name: value.cpu() for name, value in found.items()},
                {name: value.cpu() for name, value in truth.items()},
            )
