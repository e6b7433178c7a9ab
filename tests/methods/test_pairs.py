"""Every host with every awareness that goes with it, and LooC++, through `fit`: it learns, goes on, and its backbone is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from mastlib import training
from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import VARIANTS, pair_spec
from mastlib.data.pretraining import pretraining_images, pretraining_labels
from mastlib.evaluation.rows import load_backbone
from mastlib.methods import AWARENESS, HOSTS, REFUSED, build_method
from mastlib.models.backbones import normalise
from mastlib.optim import learning_rate
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit, generator, make_views

PAIRS = [(host, one) for host in HOSTS for one in AWARENESS if (host, one) not in REFUSED]
PAIRS += [("moco", one) for one in VARIANTS]
SIZES = {"image_size": 16, "batch_size": 64, "augmentations": "standard5", "epochs": 2, "knn_every": 0}
SIZES |= {"precision": "fp32", "memory_format": "contiguous", "compile": "off"}


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_epochs_of_a_pair(pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = 1024 if pair[0] == "moco" else 512  # its queue takes half of them to fill
    spec, store, steps = pair_spec("smoke", *pair, **SIZES, images=images), RunStore(tmp_path), images // 64
    taken: list[int] = []

    def ended(spec: RunSpec, step: int, per_epoch: int) -> float:
        if step == steps + 1 and step not in taken:  # the first process ends in its second epoch
            taken.append(step)
            raise KeyboardInterrupt
        taken.append(step)
        return learning_rate(spec, step, per_epoch)

    monkeypatch.setattr(training, "learning_rate", ended)
    with pytest.raises(KeyboardInterrupt):
        fit(spec, progress=False, store=store)
    before = len(taken)
    run = fit(spec, progress=False, store=store)
    assert min(taken[before:]) == steps  # it went on
    assert run.info["status"] == "ok", run.info["reason"]

    first, last = loss_on_fixed_views(spec), loss_on_fixed_views(spec, run.weights("method"))
    assert last < first - 0.01 * abs(first)

    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    again = fit(spec, progress=False, store=store)
    assert (again.id, again.info) == (run.id, run.info)

    shown = torch.rand(8, 3, spec.image_size, spec.image_size)
    with torch.no_grad():
        expected = independent(run.weights("backbone"), spec.width, shown)
        torch.testing.assert_close(load_backbone(run)(normalise(shown)), expected)


@torch.no_grad()
def loss_on_fixed_views(spec: RunSpec, weights: Mapping[str, Tensor] | None = None) -> float:
    """The loss of `weights`, or of the run's first ones, as in training, on views that are always the same.

    Means of epochs would not do: their views differ, and so by chance do they, even where nothing is learned. And MoCo's
    rise in so short a run, because its negatives change: the queue begins with random rows, which are far from every key, and
    fills with keys of other images, which are not. So the queue is first filled with the network's own keys of other images.
    """
    pipeline = get_pipeline(spec.augmentations, spec.image_size, spec.without)
    labels, names = pretraining_labels(spec.data, spec.images)
    torch.manual_seed(spec.seed)  # as `fit` does
    method = build_method(spec, pipeline.names, len(names)).train()
    if weights is not None:
        method.load_state_dict(weights, strict=True)
    images = pretraining_images(spec.data, spec.images, spec.image_size)
    filling, losses = (spec.queue // spec.batch_size if spec.host == "moco" else 0), []
    for number, rows in enumerate(torch.arange(len(images)).split(spec.batch_size)[: filling + 4]):
        views = make_views(spec, method, pipeline, images[rows], generator(1, number))
        losses.append(float(method(views, 0, labels[rows])["loss"]))
    return sum(losses[filling:]) / len(losses[filling:])


def independent(state: Mapping[str, Tensor], width: int, images: Tensor) -> Tensor:
    """Features of resnet_small as torchvision's blocks make it, its weights loaded strictly; of LooC++, a network for each copy."""

    def features(weights: Mapping[str, Tensor]) -> Tensor:
        down = nn.Sequential(nn.Conv2d(4 * width, 8 * width, 1, 2, bias=False), nn.BatchNorm2d(8 * width))
        blocks = [Bottleneck(4 * width, width), Bottleneck(4 * width, 2 * width, 2, down)]
        blocks.append(Bottleneck(8 * width, 2 * width))
        stem = nn.Sequential(nn.Conv2d(3, 4 * width, 4, 4, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU())
        net = nn.Sequential(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks)))
        net.load_state_dict(weights, strict=True)
        return nn.functional.adaptive_avg_pool2d(net.eval()(normalise(images)), 1).flatten(1)

    def renamed(old: str, new: str) -> dict[str, Tensor]:
        return {new + name.removeprefix(old): value for name, value in state.items() if name.startswith(old)}

    copies = len({name.split(".")[1] for name in state if name.startswith("stages.")})
    if not copies:
        return features(state)
    trunk = renamed("trunk.", "")
    return torch.cat([features(trunk | renamed(f"stages.{h}.", "blocks.2.")) for h in range(copies)], dim=1)
