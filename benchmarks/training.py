"""What a training step costs, part by part, and how much of it is making the views.

    python benchmarks/training.py [--json FILE]

Each arm's steps alternate between views made anew and views kept from before, so that a machine that gets slower does so
for both; `share` is the median of the first over the median of the second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from mastlib import provenance
from mastlib.augment.presets import get_pipeline
from mastlib.data.pretraining import pretraining_images
from mastlib.files import write_text
from mastlib.methods import build_method
from mastlib.methods.base import layout_of
from mastlib.optim import build_optimizer
from mastlib.precision import resolve
from mastlib.spec import RunSpec
from mastlib.tiers import tier_spec
from mastlib.training import generator


def milliseconds(spec: RunSpec, repeats: int) -> dict[str, float]:
    """Median milliseconds of augmenting, forward, backward and optimiser step, of a step with and without new views."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = get_pipeline(spec.augmentations, spec.image_size, spec.without, compiled=spec.compile == "on")
    images = pretraining_images(spec.data, spec.images, spec.image_size)[: spec.batch_size].to(device)
    method = build_method(spec, pipeline.names).to(device).to(memory_format=layout_of(spec.memory_format))
    optimizer = build_optimizer(method, spec)
    times: dict[str, list[float]] = {
        name: [] for name in ("augment", "forward", "backward", "optimiser", "new views", "kept views")
    }
    views = pipeline.views(images, pairing=spec.pairing, generator=generator(0, device=device))

    def mark() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for step in range(2 * repeats + 6):
        marks = [mark()]
        if step % 2 == 0:
            draw = generator(0, step, device=device)
            views = pipeline.views(images, pairing=spec.pairing, generator=draw, out=views.images)
        marks.append(mark())
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            parts = method(views, step)
        marks.append(mark())
        optimizer.zero_grad()
        parts["loss"].backward()
        marks.append(mark())
        optimizer.step()
        marks.append(mark())
        if step < 6:  # warming up, compiling
            continue
        times["kept views" if step % 2 else "new views"].append(1000 * (marks[-1] - marks[0]))
        spans = zip(("augment", "forward", "backward", "optimiser"), marks[:-1], marks[1:], strict=True)
        for name, start, stop in spans:
            if name != "augment" or step % 2 == 0:
                times[name].append(1000 * (stop - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file that the results are written to")
    options = parser.parse_args()
    laptop = resolve(tier_spec("laptop", augmentations="standard5", compile="on"))
    larger = {"backbone": "resnet18", "stem": "small", "image_size": 64, "projector": (2048, 2048, 2048)}
    larger |= {"images": 1024, "batch_size": 64, "epochs": 1, "warmup_epochs": 0}
    arms = {
        "VICReg, laptop tier": (laptop, 150),
        "VICReg, laptop tier, not compiled": (laptop.replace(compile="off"), 150),
        "MAST, laptop tier": (laptop.replace(awareness="mast", pairing="isolate_one"), 150),
        "VICReg, laptop tier, fifteen": (laptop.replace(augmentations="extended15"), 150),
        "VICReg, ResNet-18 at 64 px, 64 images": (
            resolve(RunSpec(augmentations="standard5", optimizer="adamw", compile="on", **larger)),
            6,
        ),
    }
    about = {"machine": provenance.hardware(), "threads": torch.get_num_threads(), "versions": provenance.versions()}
    print(json.dumps(about))
    rows = []
    for name, (spec, repeats) in arms.items():
        found = milliseconds(spec, repeats)
        share = found["new views"] / found["kept views"]
        rows.append(
            {"arm": name, "precision": spec.precision, "memory_format": spec.memory_format, **found, "share": share}
        )
        parts = ", ".join(f"{part} {value:.1f}" for part, value in found.items())
        print(f"{name} ({spec.precision}, {spec.memory_format}): share {share:.3f}; ms: {parts}", flush=True)
    if options.json:
        write_text(options.json, json.dumps({**about, "steps": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
