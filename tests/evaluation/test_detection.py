"""Average precision against closed forms and COCO's own tool, and detectors on scenes whose answer is plain."""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mastlib.data import bank
from mastlib.data.pools import Pool, load_pool
from mastlib.errors import InputError
from mastlib.evaluation import detection
from mastlib.evaluation.detection import average_precision, detect
from mastlib.models.backbones import build_backbone, normalise
from mastlib.stats import jackknife

SIZE = 32


@pytest.fixture(scope="module")
def pool():
    return load_pool("several", 16, limit=60)


@pytest.fixture(scope="module")
def shapes():
    """Scenes with a bright square or a dark disc: sprites of two categories, and one that counts as nothing."""
    draw = np.random.default_rng(0)
    category = bank.load_table()["category"].reset_index(drop=True)
    flag, food = (int(np.flatnonzero(category == name)[0]) for name in ("Flags", "Food & Drink"))
    n, axis = 160, np.arange(SIZE)
    images = torch.full((n, 3, SIZE, SIZE), 128, dtype=torch.uint8)
    masks = np.zeros((n, 3, SIZE, SIZE), dtype=bool)
    sprites = torch.tensor([flag, food, -1]).repeat(n, 1)
    for i in range(n):
        for k, left in enumerate(draw.permutation([0, 16])):
            r = draw.integers(4, 8)
            x, y = left + draw.integers(r, 17 - r), draw.integers(r, SIZE + 1 - r)
            dx, dy = np.abs(axis + 0.5 - x), np.abs(axis + 0.5 - y)[:, None]
            masks[i, k] = np.maximum(dx, dy) < r if k == 0 else dx**2 + dy**2 < r**2
            images[i, :, torch.from_numpy(masks[i, k])] = (250, 10)[k]
    boxes = torch.zeros(n, 3, 4)
    for i, k in np.argwhere(masks.any((2, 3))):
        y, x = np.nonzero(masks[i, k])
        boxes[i, k] = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
    sides = pd.DataFrame({"split": ["train"] * 120 + ["val"] * 20 + ["test"] * 20})
    packed = torch.from_numpy(np.packbits(masks, axis=-1))
    return Pool("shapes", images, sides, "", boxes, packed, sprites)


def small(seed=0):
    torch.manual_seed(seed)
    return build_backbone("resnet_small", 8)


def thing(boxes, labels=None, scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    made = {"boxes": boxes, "labels": torch.tensor([1] * len(boxes) if labels is None else labels)}
    made["masks"] = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(made["masks"], boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return made if scores is None else made | {"scores": torch.tensor(scores)}


A, B = [2, 3, 42, 23], [10, 40, 50, 60]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    ("found", "ap", "ap50", "ap75"),
    [
        (thing([A, B], scores=[0.9, 0.8]), 1, 1, 1),
        (thing([A], scores=[0.9]), 51 / 101, 51 / 101, 51 / 101),  # recall 0, .01, ..., .5 of 0, .01, ..., 1
        (
            thing([A, B], labels=[1, 2], scores=[0.9, 0.8]),
            51 / 101,
            51 / 101,
            51 / 101,
        ),  # the other class' do not count
        (thing([[x + 9, y, z + 9, w] for x, y, z, w in (A, B)], scores=[0.9, 0.8]), 0.3, 1, 0),  # IoU 31 / 49 = .63
        (thing([], scores=[]), 0, 0, 0),
    ],
)
def test_the_precision_of_plain_cases(found, ap, ap50, ap75, masks):
    (mean, low, high, n), at50, at75 = average_precision([(found, thing([A, B]))] * 10, masks)
    assert (mean, at50, at75, n) == (pytest.approx(ap), pytest.approx(ap50), pytest.approx(ap75), 10)
    assert (low, high) == pytest.approx((mean, mean)), "all groups are alike"


@pytest.mark.parametrize("masks", [False, True])
def test_precision_and_interval_are_those_of_pycocotools(masks):
    draw = np.random.default_rng(1)
    images = []
    for _ in range(25):
        corner, side = draw.integers(0, 30, (4, 2)), draw.integers(8, 34, (4, 2))
        boxes, labels = np.concatenate([corner, corner + side], axis=1), draw.integers(1, 4, 4)
        moved = np.clip(boxes + draw.integers(-3, 4, boxes.shape), 0, 64)
        guess = np.where(draw.random(4) < 0.7, labels, draw.integers(1, 4, 4))
        images.append((thing(moved, guess, draw.random(4)), thing(boxes, labels)))

    def coco(kept):
        truth, found = [], []
        for i in kept:
            for part, into in zip(images[i], (found, truth), strict=True):
                for k, (x0, y0, x1, y1) in enumerate(part["boxes"].tolist()):
                    one = {"image_id": i, "category_id": int(part["labels"][k]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                    bits = coco_mask.encode(np.asfortranarray(part["masks"][k].numpy().astype(np.uint8)))
                    one |= {
                        "segmentation": bits,
                        "area": float(coco_mask.area(bits)),
                        "iscrowd": 0,
                        "id": len(into) + 1,
                    }
                    into.append(one | ({"score": float(part["scores"][k])} if "scores" in part else {}))
        with contextlib.redirect_stdout(io.StringIO()):
            book = COCO()
            book.dataset = {
                "images": [{"id": i, "height": 64, "width": 64} for i in kept],
                "categories": [{"id": k} for k in (1, 2, 3)],
                "annotations": truth,
            }
            book.createIndex()
            judge = COCOeval(book, book.loadRes(found), "segm" if masks else "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return judge.stats[:3]

    (ap, low, high, n), ap50, ap75 = average_precision(images, masks, groups=5)
    assert (ap, ap50, ap75) == pytest.approx(tuple(coco(range(25)))) and 0.1 < ap < 0.6 and n == 25
    of_coco = jackknife(lambda kept: coco(np.flatnonzero(kept))[0], range(25), 5)
    assert (low, high) == pytest.approx(of_coco[1:3]) and high - low > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
def test_plain_shapes_are_found(shapes, masks):
    found = detect(small(), shapes, masks, epochs=10, lr=4e-3)
    assert found.ap50 > 0.85 and found.low < found.ap < found.high and found.n == 20
    assert found.curve[-1] < found.curve[0] / 2 and len(found.curve) == 10


@pytest.mark.parametrize("masks", [False, True])
def test_what_counts_of_a_scene(pool, masks):
    category = bank.load_table()["category"].to_numpy()
    hidden = replace(pool, boxes=pool.boxes.clone(), sprites=pool.sprites.clone())
    hidden.boxes[0, 0] = 0
    hidden.sprites[0, 1] = int(np.flatnonzero(pd.isna(category))[0])
    scenes = detection._Scenes(hidden, masks, torch.device("cpu"))
    image, truth = scenes(0)
    kept = [k for k in range(2, 5) if pool.sprites[0, k] >= 0 and pool.boxes[0, k].any()]
    assert image.equal(pool.images[0].float() / 255) and truth["boxes"].equal(pool.boxes[0, kept])
    assert [scenes.classes[label - 1] for label in truth["labels"]] == [category[s] for s in pool.sprites[0, kept]]
    assert truth["labels"].min() > 0 and len(scenes.classes) == len(set(category[~pd.isna(category)]))
    if masks:
        corners = [torch.nonzero(mask).flip(1) for mask in truth["masks"]]
        tight = torch.stack([torch.cat([at.amin(0), at.amax(0) + 1]) for at in corners])
        assert truth["boxes"].equal(tight.float())


def test_training_and_test_scenes_show_different_concepts(pool):
    concepts = bank.load_table()["concept"].to_numpy()
    shown = {
        side: set(concepts[s[s >= 0]])
        for side in ("train", "val", "test")
        for s in [pool.sprites[torch.from_numpy((pool.table["split"] == side).to_numpy())].numpy()]
    }
    assert all(shown.values()) and not shown["train"] & (shown["val"] | shown["test"])


@pytest.mark.parametrize("frozen", [False, True])
def test_only_a_copy_is_trained_and_nothing_of_it_where_it_is_frozen(pool, monkeypatch, frozen):
    backbone = small().eval().requires_grad_(False)  # as runs are loaded
    before, kept = copy.deepcopy(backbone.state_dict()), []
    train = detection._train
    monkeypatch.setattr(detection, "_train", lambda net, *rest: kept.append(net) or train(net, *rest))
    detect(backbone, pool, frozen=frozen, epochs=1)
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())
    assert not backbone.training and not any(parameter.requires_grad for parameter in backbone.parameters())
    theirs = detection.staged(backbone).state_dict()
    same = {name: value.equal(theirs[name]) for name, value in kept[0].backbone.stages.state_dict().items()}
    assert all(same.values()) if frozen else not any(same.values())


def test_the_backbone_sees_images_as_it_knows_them(pool):
    net = detection._detector(small(), 32, 9, masks=False, frozen=True).eval()
    seen = []
    net.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net([image / 255 for image in pool.images[:3]])
    torch.testing.assert_close(seen[0], normalise(pool.images[:3]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet_small"])
def test_the_map_is_at_the_resolution_before_the_last(name):
    maps = detection._Maps(build_backbone(name, 8, "standard"), 128, frozen=True).eval()
    stride = {"resnet18": 16, "resnet_small": 4}[name]
    found = maps(torch.zeros(2, 3, 128, 128))
    assert found.shape == (2, maps.out_channels, 128 // stride, 128 // stride)


def test_a_result_is_a_function_of_its_arguments_and_of_no_scene_it_was_not_asked_about(pool):
    backbone, state = small(), torch.get_rng_state()
    first, same, other = (detect(backbone, pool, seed=seed, epochs=1) for seed in (3, 3, 4))
    assert torch.get_rng_state().equal(state)
    assert first == same and first.curve != other.curve
    assert first.n == (pool.table["split"] == "test").sum() and 0 <= first.ap <= first.ap50 <= 1
    for side, reads in (("test", "curve"), ("val", "all")):
        blank = pool.images.clone()
        blank[torch.from_numpy((pool.table["split"] == side).to_numpy())] = 0
        changed = detect(backbone, replace(pool, images=blank), seed=3, epochs=1)
        assert changed.curve == first.curve and (reads == "curve" or changed == first)


def test_a_collapsed_backbone_is_scored_and_a_broken_one_refused(pool):
    with torch.no_grad():
        flat, broken = small(), small()
        [parameter.zero_() for parameter in flat.parameters()]
        next(broken.parameters()).fill_(float("nan"))
    assert detect(flat, pool, frozen=True, epochs=1).ap < 0.05
    for frozen in (False, True):
        with pytest.raises(InputError, match="the detector's loss is nan"):
            detect(broken, pool, frozen=frozen, epochs=1)


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        ({}, {"boxes": None}, "pool = 'several' cannot be used; accepted: one with boxes"),
        ({"masks": True}, {"masks": None}, "masks = True cannot be used; accepted: False"),
        ({}, {"table": pd.DataFrame({"split": ["train"] * 60})}, "no object with a category in split test"),
        ({}, {"table": pd.DataFrame({"split": ["test"] * 60})}, "no object with a category in split train"),
        ({}, {"table": pd.DataFrame({"side": ["test"] * 60})}, "pool several has no column 'split'"),
        ({"epochs": 0}, {}, "epochs = 0 cannot be used"),
        ({"lr": -1.0}, {}, "lr = -1.0 cannot be used"),
        ({"batch_size": 0}, {}, "batch_size = 0 cannot be used"),
        ({"side": "train"}, {}, "side = 'train' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_said(pool, arguments, changes, said):
    with pytest.raises(InputError, match=said):
        detect(small(), replace(pool, **changes), **arguments)


def test_fewer_images_than_groups_have_no_interval():
    with pytest.raises(InputError, match="images = 9 cannot be used; accepted: at least 10"):
        average_precision([(thing([A], scores=[0.9]), thing([A]))] * 9)
