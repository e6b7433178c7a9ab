"""What a training step of a method costs, relative to its host: time, and memory besides the weights.

    python benchmarks/methods.py [--json FILE] [--backbone resnet_small --stem patch --size 32 --repeats 5]

A host and the arms on it see the same images and use the same augmentations; making the views is part of the step (MAST needs
isolated pairs, LooC a view for each augmentation and two more). Their steps take turns, in reversed order every other
time, so that a machine that slows does so for both; `time` is the median over the rounds of arm over host. Memory is
that of a fresh process for each arm: its peak over a few steps, less what it held before them, which is views,
activations, gradients and the optimiser's state.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mastlib import provenance
from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import pair_spec
from mastlib.cost import Step, ratio, step_seconds
from mastlib.data.pretraining import pretraining_images
from mastlib.files import write_text
from mastlib.models.backbones import BACKBONES, STEMS
from mastlib.precision import resolve
from mastlib.spec import RunSpec
from mastlib.tiers import published

# Host, its augmentations, and what is compared with it. MAST's uncertainty is on, which is not the default.
GROUPS = {
    "vicreg": ("extended15", ["mast"]),
    "simsiam": ("moco_v2", ["augself", "cassle"]),
    "moco": ("moco_v2", ["augself", "cassle", "looc", "looc++"]),
}
MEMORY_STEPS = 2  # the second one has the optimiser's state from its beginning


def spec_of(options: argparse.Namespace, host: str, awareness: str) -> RunSpec:
    """The arm at the size that `options` ask for: the host's own optimiser, the gpu tier's projector for VICReg."""
    size = {"backbone": options.backbone, "stem": options.stem, "image_size": options.size}
    size |= {"images": options.batch, "batch_size": options.batch, "epochs": 1, "warmup_epochs": 0}
    size |= {"compile": options.compile, "optimizer": published(host).optimizer}
    if awareness == "mast":
        size |= {"uncertainty": "reweight"}
    return pair_spec("gpu", host, awareness, augmentations=GROUPS[host][0], **size)


def peak_bytes(options: argparse.Namespace, host: str, awareness: str) -> int:
    """Of a fresh process that takes a few steps of this arm."""
    command = [sys.executable, __file__, "--memory-of", host, awareness, "--compile", options.compile]
    for name in ("backbone", "stem", "size", "batch"):
        command += [f"--{name}", str(getattr(options, name))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(spec: RunSpec) -> int:
    """Bytes that a few steps take at most, besides what was there before them."""
    cuda = torch.cuda.is_available()
    images = torch.zeros(spec.batch_size, 3, spec.image_size, spec.image_size, dtype=torch.uint8)
    step = Step(spec, images.to("cuda" if cuda else "cpu"))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident()
    for _ in range(MEMORY_STEPS):
        step()
    return (torch.cuda.max_memory_allocated() if cuda else resident()) - before


def resident() -> int:
    """The largest resident size of this process so far, bytes.

    Linux's own count first: `ru_maxrss` of a child begins at the size of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file that the results are written to")
    parser.add_argument("--backbone", choices=BACKBONES, default="resnet18")
    parser.add_argument("--stem", choices=STEMS, default="small")
    parser.add_argument("--size", type=int, default=64, help="side of an image, pixels")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each arm")
    parser.add_argument("--compile", choices=("on", "off"), default="off", help="augmentations as compiled code")
    parser.add_argument("--memory-of", nargs=2, metavar=("HOST", "AWARENESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(measure_memory(resolve(spec_of(options, *options.memory_of))))
        return
    size = {name: getattr(options, name) for name in ("backbone", "stem", "size", "batch", "repeats", "compile")}
    about: dict[str, Any] = {"machine": provenance.hardware(), "threads": torch.get_num_threads(), **size}
    about["versions"] = provenance.versions()
    print(json.dumps(about))
    rows = measure(options)
    if options.json:
        write_text(options.json, json.dumps({**about, "methods": rows}, indent=1) + "\n")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each arm, printed when it is known: all are timed first, since memory may be read on a machine that works."""
    images = pretraining_images("openemoji", options.batch, options.size)
    images = images.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    print(f"{'host':10}{'arm':10}{'K':>3}{'host s':>9}{'arm s':>9}{'time':>7}{'range':>14}")
    for host, (augmentations, more) in GROUPS.items():
        specs = {one: resolve(spec_of(options, host, one)) for one in ("none", *more)}
        count = len(get_pipeline(augmentations, options.size).names)
        seconds = step_seconds(specs, images, options.repeats)
        middle = {one: statistics.median(seconds[one]) for one in specs}
        for awareness in more:
            time, least, greatest = ratio(seconds, awareness, "none")
            row = {"host": host, "awareness": awareness, "augmentations": augmentations, "count": count}
            row |= {name: getattr(specs[awareness], name) for name in ("precision", "memory_format")}
            row |= {"host_seconds": middle["none"], "seconds": middle[awareness]}
            rows.append(row | {"time": time, "least": least, "greatest": greatest})
            print(
                f"{host:10}{awareness:10}{count:3d}{middle['none']:9.3f}{middle[awareness]:9.3f}{time:7.2f}"
                f"{f'{least:.2f}-{greatest:.2f}':>14}",
                flush=True,
            )
    print(f"{'host':10}{'arm':10}{'host MB':>9}{'arm MB':>9}{'memory':>8}")
    hosts = {host: peak_bytes(options, host, "none") / 1e6 for host in GROUPS}
    for row in rows:
        before, after = hosts[row["host"]], peak_bytes(options, row["host"], row["awareness"]) / 1e6
        row |= {"host_megabytes": before, "megabytes": after, "memory": after / before}
        print(f"{row['host']:10}{row['awareness']:10}{before:9.0f}{after:9.0f}{row['memory']:8.2f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
