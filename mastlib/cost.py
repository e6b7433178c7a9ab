"""What a training step costs, in time, memory and parameters.

Steps of several specs are timed in turn, so that a machine that slows does so for all of them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mastlib.augment.presets import get_pipeline
from mastlib.errors import check_int
from mastlib.methods import build_method
from mastlib.methods.base import layout_of
from mastlib.optim import build_optimizer
from mastlib.precision import resolve
from mastlib.provenance import hardware
from mastlib.remembered import remembered
from mastlib.spec import RunSpec
from mastlib.training import generator, make_views

CLASSES = 10  # of the made-up labels that a supervised host is timed with
WARM_UP = 2  # rounds that are not counted: memory is fetched, the optimiser makes its state
COLUMNS = ["arm", "over", "measure", "value", "low", "high", "amount", "amount_over"]


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


def step_seconds(specs: Mapping[str, RunSpec], images: Tensor, rounds: int, steps: int = 1) -> dict[str, list[float]]:
    """Mean seconds of a step of each spec in each of `rounds`.

    A round takes `steps` steps of each, one of each in order and, every other time, in reverse: what slows a round slows all.
    """
    check_int("rounds", rounds, 1)
    check_int("steps", steps, 1)
    ready = {name: Step(spec, images) for name, spec in specs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    for number in range(WARM_UP + rounds):
        taken = dict.fromkeys(specs, 0.0)
        for turn in range(number * steps, (number + 1) * steps):
            for name in list(ready)[:: -1 if turn % 2 else 1]:
                taken[name] += ready[name]() / steps
        if number >= WARM_UP:
            for name, mean in taken.items():
                seconds[name].append(mean)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, host: str) -> tuple[float, float, float]:
    """Median, least and greatest over the rounds of `name`'s seconds over `host`'s in the same round."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[host], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def peak_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors that were there at once while `work()` ran, of those that it made; scratch of kernels included.

    Counted from what PyTorch's allocator gave out and took back, not from what the process holds of the machine, so that it is the
    same every time, whatever was freed before and is kept for later.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return int(torch.cuda.max_memory_allocated() - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells everyone that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def step_bytes(spec: RunSpec, images: Tensor) -> int:
    """`peak_bytes` of training: weights, slow copies, queue, optimiser's state, views, activations and gradients of a step."""

    def train() -> None:
        step = Step(spec, images)
        for _ in range(2):  # the second has the optimiser's state from its beginning
            step()

    return peak_bytes(train, images.device.type)


def trained_parameters(spec: RunSpec, images: Tensor) -> int:
    """Numbers that a gradient trains: backbone, projector and all heads."""
    return sum(p.numel() for p in Step(spec, images).method.parameters() if p.requires_grad)


def compare(
    specs: Mapping[str, RunSpec], pairs: Mapping[str, tuple[str, str]], rounds: int, steps: int
) -> pd.DataFrame:
    """What the first spec of each of `pairs` costs over the second: seconds, memory and parameters of a training step.

    Rows (arm, over, measure, value, low, high, amount, amount_over) for each of `pairs`, name -> (spec, other spec): `value` is
    the ratio of `amount` (seconds, bytes, numbers) to `amount_over`. Of seconds it is the median over the rounds, low and high
    their least and greatest; memory and parameters are counted, so all three are one. Views are part of a step, and not compiled.
    Images are noise: what a picture shows costs nothing. The specs' precision and layout are decided on this machine.
    """
    rows = []
    for arm, (one, other) in pairs.items():
        both = {name: resolve(specs[name].replace(compile="off")) for name in (one, other)}
        images = _noise(both[one])
        seconds = step_seconds(both, images, rounds, steps)
        middle = [statistics.median(seconds[name]) for name in (one, other)]
        rows.append((arm, other, "seconds", *ratio(seconds, one, other), *middle))
        for measure, count in (("memory", step_bytes), ("parameters", trained_parameters)):
            a, b = (count(both[name], images) for name in (one, other))
            rows.append((arm, other, measure, a / b, a / b, a / b, a, b))
    return pd.DataFrame(rows, columns=COLUMNS)


def machine() -> list[str | int]:
    """What a time depends on besides the code: processor, its cores, PyTorch's threads and version."""
    return [hardware(), os.cpu_count() or 1, torch.get_num_threads(), str(torch.__version__)]


def costs(
    specs: Mapping[str, RunSpec], pairs: Mapping[str, tuple[str, str]], rounds: int = 8, steps: int = 4
) -> pd.DataFrame:
    """`compare`, measured once on a machine."""
    return remembered(
        "cost", machine(), partial(compare, specs, pairs, rounds, steps), code="mastlib.cost",
        specs={name: spec.to_dict() for name, spec in specs.items()}, pairs=dict(pairs), rounds=rounds, steps=steps,
    )  # fmt: skip


def _noise(spec: RunSpec) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    shape = (spec.batch_size, 3, spec.image_size, spec.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    return images.to("cuda" if torch.cuda.is_available() else "cpu")
