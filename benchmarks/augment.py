"""Two views each of 256 images: this engine against kornia, torchvision and lightly, in images a second.

    python benchmarks/augment.py [--sizes 32 64 96 224] [--rounds 3] [--seconds 2] [--json FILE]

Every contestant is timed once a round, in turn, so that a machine that gets slower or faster does so for all of them; the
table holds medians over rounds, of rates and of ratios. A DataLoader has a process a core and is timed once its first
batches, made before the clock starts, are gone. kornia (extra `bench`) and lightly (extra `test`) are left out where they
are not installed. On a GPU, kornia and this engine run there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mastlib import provenance
from mastlib.augment import get_pipeline
from mastlib.augment.blur import default_kernel_size
from mastlib.augment.presets import blur
from mastlib.files import write_text

BATCH = 256
PRESETS = {"five": "standard5", "fifteen": "extended15"}
CORES = os.cpu_count() or 1

Timed = Callable[[float], float]  # seconds to spend, about -> images a second, two views each


def timed(step: Callable[[], object]) -> Timed:
    """Images a second of `step`, which makes two views of BATCH images."""

    def rate(seconds: float) -> float:
        start, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - start < seconds:
            step()
            done += BATCH
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return done / (time.perf_counter() - start)

    step()
    return rate


def mastlib(preset: str, size: int, images: Tensor, compiled: bool) -> Timed:
    """This engine, writing to one buffer as a training loop does."""
    pipeline = get_pipeline(preset, size, compiled=compiled)
    draw = torch.Generator(images.device).manual_seed(0)
    room = torch.empty(2, BATCH, 3, size, size, device=images.device)
    for _ in range(3):  # whatever is compiled for the sizes that occur
        pipeline.views(images, generator=draw, out=room)
    return timed(lambda: pipeline.views(images, generator=draw, out=room))


def kornia(count: str, size: int, images: Tensor) -> Timed:
    """kornia's operations in sequence, on floats; shears in its degrees."""
    import kornia.augmentation as K

    ops: list[nn.Module] = [
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0)), K.RandomHorizontalFlip(),
        K.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8), K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((default_kernel_size(size),) * 2, blur(size).sigma, p=0.5),
    ]  # fmt: skip
    if count == "fifteen":
        shear = (1.7, 15.1)  # .03 to .27 pixels a pixel
        ops += [
            K.RandomAutoContrast(p=0.5), K.RandomEqualize(p=0.5), K.RandomPosterize((4, 7), p=0.5),
            K.RandomRotation((3.0, 27.0), p=0.5), K.RandomSharpness((0.14, 0.86), p=0.5),
            K.RandomShear((*shear, 0.0, 0.0), p=0.5), K.RandomShear((0.0, 0.0, *shear), p=0.5), K.RandomSolarize(p=0.5),
            K.RandomTranslate(translate_x=(0.03, 0.27), p=0.5), K.RandomTranslate(translate_y=(0.03, 0.27), p=0.5),
        ]  # fmt: skip
    chain = nn.Sequential(*ops).to(images.device)
    floats = images.float() / 255

    def step() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return chain(floats), chain(floats)

    return timed(step)


def torchvision_transform(count: str, size: int) -> v2.Transform:
    """torchvision's operations in sequence, for tensors or PIL images."""
    ops: list[v2.Transform] = [
        v2.RandomResizedCrop(size, scale=(0.2, 1.0)), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(default_kernel_size(size), blur(size).sigma)], p=0.5),
    ]  # fmt: skip
    if count == "fifteen":
        moves: list[dict[str, Any]] = [
            {"shear": (-15, 15, 0, 0)}, {"shear": (0, 0, -15, 15)}, {"translate": (0.27, 0.0)}, {"translate": (0.0, 0.27)},
        ]  # fmt: skip
        ops += [
            v2.RandomAutocontrast(), v2.RandomEqualize(), v2.RandomPosterize(5), v2.RandomApply([v2.RandomRotation(27)]),
            v2.RandomAdjustSharpness(0.5), v2.RandomSolarize(128),
            *(v2.RandomApply([v2.RandomAffine(0, **move)]) for move in moves),
        ]  # fmt: skip
    return v2.Compose(ops)


class Pairs(torch.utils.data.Dataset):
    """Two views of each image by a transform of single images; `pil`: of PIL images, made into tensors at the end."""

    def __init__(self, images: Tensor, transform: Callable, pil: bool) -> None:
        self.images, self.transform, self.pil = images, transform, pil

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image = self.images[index % len(self.images)]
        if not self.pil:
            return self.transform(image), self.transform(image)
        picture = v2.functional.to_pil_image(image)
        return tuple(v2.functional.pil_to_tensor(self.transform(picture)) for _ in range(2))


class LightlyPairs(Pairs):
    """Two views by one of lightly's transforms, which makes both at once."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(self.transform(v2.functional.to_pil_image(self.images[index % len(self.images)])))


def loaded(pairs: Pairs) -> Timed:
    """Images a second out of a DataLoader with a process a core, once what was made ahead is gone."""

    def rate(seconds: float) -> float:
        batches: Iterator = iter(torch.utils.data.DataLoader(pairs, BATCH, num_workers=CORES, prefetch_factor=1))
        for _ in range(2 * CORES):
            next(batches)
        return timed_steps(lambda: next(batches), max(CORES, 2), seconds)

    return rate


def timed_steps(step: Callable[[], object], least: int, seconds: float) -> float:
    """Images a second of at least `least` steps, whole rounds of a DataLoader's processes."""
    start, steps = time.perf_counter(), 0
    while steps % least or steps == 0 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * BATCH / (time.perf_counter() - start)


def contestants(count: str, size: int, images: Tensor) -> dict[str, Timed]:
    """All that is installed, by name; this engine first."""
    still = images.cpu()
    found = {
        "mastlib": mastlib(PRESETS[count], size, images, compiled=True),
        "mastlib, not compiled": mastlib(PRESETS[count], size, images, compiled=False),
        "torchvision v2, DataLoader": loaded(Pairs(still, torchvision_transform(count, size), False)),
        "torchvision PIL, DataLoader": loaded(Pairs(still, torchvision_transform(count, size), True)),
    }
    if find_spec("kornia"):
        found["kornia"] = kornia(count, size, images)
    if count == "five" and find_spec("lightly"):
        from lightly.transforms import MoCoV2Transform

        found["lightly, DataLoader"] = loaded(LightlyPairs(still, MoCoV2Transform(input_size=size), True))
    return found


def compare(count: str, size: int, device: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One row a contestant: median images a second, and the median over rounds of this engine's multiple of it."""
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, device=device)
    found = contestants(count, size, images)
    rates: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, rate in found.items():
            rates[name].append(rate(seconds))
    rows = []
    for name, own in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["mastlib"], own, strict=True))
        row = {
            "ops": count,
            "size": size,
            "name": name,
            "images_per_second": statistics.median(own),
            "mastlib_is": ratio,
        }
        rows.append({**row, "rounds": own})
        print(f"{count:8} {size:4} px  {name:28} {statistics.median(own):10,.0f}   {ratio:6.1f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 224])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each contestant runs in a round")
    parser.add_argument("--json", type=Path, help="file that the results are written to")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    packages = provenance.versions() | {name: version(name) for name in ("kornia", "lightly") if find_spec(name)}
    about = {"machine": provenance.hardware(), "cores": CORES, "device": device, "versions": packages}
    print(json.dumps(about))
    print(f"{'ops':8} {'size':>7}  {'':28} images/s   mastlib is times as fast")
    rows = []
    for count in PRESETS:
        for size in options.sizes:
            rows += compare(count, size, device, options.rounds, options.seconds)
            if options.json:
                write_text(options.json, json.dumps({**about, "batch": BATCH, "rates": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
