"""What a training step costs: several specs' steps taken in turn, so that a machine that slows does so for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from mastlib.augment.presets import get_pipeline
from mastlib.errors import check_int
from mastlib.methods import build_method
from mastlib.methods.base import layout_of
from mastlib.optim import build_optimizer
from mastlib.spec import RunSpec
from mastlib.training import generator, make_views

CLASSES = 10  # of the made-up labels that a supervised host is timed with
WARM_UP = 2  # steps that are not counted: memory is fetched, the optimiser makes its state


class Step:
    """One arm's training step, views included, on `images` `(batch_size, 3, S, S)`; calling it takes one, in seconds.

    `spec.precision`, `memory_format` and `compile` must be decided (`precision.resolve`). The learning rate is not scheduled.
    """

    def __init__(self, spec: RunSpec, images: Tensor) -> None:
        self.spec, self.images, self.device = spec, images, images.device
        self.pipeline = get_pipeline(spec.augmentations, spec.image_size, spec.without, compiled=spec.compile == "on")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            method = build_method(spec, self.pipeline.names, CLASSES)
        self.method = method.to(self.device).to(memory_format=layout_of(spec.memory_format))
        self.optimizer = build_optimizer(self.method, spec)
        self.labels = torch.arange(len(images), device=self.device) % CLASSES if method.wants_labels else None
        self.room: Tensor | None = None
        self.taken = 0

    def __call__(self) -> float:
        start = self._now()
        draw = generator(self.spec.seed, self.taken, device=self.device)
        views = make_views(self.spec, self.method, self.pipeline, self.images, draw, self.room)
        self.room = views.images
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            parts = self.method(views, self.taken, self.labels)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        self.optimizer.step()
        self.taken += 1
        return self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def step_seconds(specs: Mapping[str, RunSpec], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` steps of each spec: a round takes one step of each, in order and, every other time, in reverse."""
    check_int("rounds", rounds, 1)
    steps = {name: Step(spec, images) for name, spec in specs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    for number in range(WARM_UP + rounds):
        for name in list(steps)[:: -1 if number % 2 else 1]:
            taken = steps[name]()
            if number >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, host: str) -> tuple[float, float, float]:
    """Median, least and greatest over the rounds of `name`'s seconds over `host`'s in the same round."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[host], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
