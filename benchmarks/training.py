"""A laptop-tier training step, part by part, for each arm of the second chapter."""

from __future__ import annotations

import statistics
import time

import torch

from mastlib.augment.presets import get_pipeline
from mastlib.data.pools import pretraining_images
from mastlib.methods import build_method
from mastlib.methods.base import layout_of
from mastlib.optim import build_optimizer
from mastlib.spec import RunSpec
from mastlib.tiers import tier_spec
from mastlib.training import generator, resolve


def milliseconds(spec: RunSpec, repeats: int = 30) -> dict[str, float]:
    """Median milliseconds of augmenting, forward, backward and optimiser step, after five steps to warm up."""
    pipeline = get_pipeline(spec.augmentations, spec.image_size, spec.without)
    images = pretraining_images(spec.data, spec.images, spec.image_size)[: spec.batch_size]
    method = build_method(spec, pipeline.names).to(memory_format=layout_of(spec.memory_format))
    optimizer = build_optimizer(method, spec)
    times: dict[str, list[float]] = {"augment": [], "forward": [], "backward": [], "step": []}
    for step in range(repeats + 5):
        marks = [time.perf_counter()]
        views = pipeline.views(images, pairing=spec.pairing, generator=generator(0, step))
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "bf16"):
            parts = method(views, step)
        marks.append(time.perf_counter())
        optimizer.zero_grad()
        parts["loss"].backward()
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        if step >= 5:
            for name, start, stop in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(1000 * (stop - start))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    host = resolve(tier_spec("laptop", augmentations="standard5"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {host.precision}, {host.memory_format}")
    arms = {"VICReg": host, "MAST": host.replace(method="mast", pairing="isolate_one")}
    for name, spec in arms.items():
        found = milliseconds(spec)
        print(f"{name}: {sum(found.values()):.1f} ms a step;", ", ".join(f"{k} {v:.1f}" for k, v in found.items()))
