"""Which arithmetic and memory layout a run uses on this machine, and whether its augmentations are compiled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator

import torch

from mastlib.augment.kernels import can_compile
from mastlib.files import outputs_dir, write_text
from mastlib.launch import device_here
from mastlib.locks import alone
from mastlib.methods.base import layout_of
from mastlib.spec import RunSpec
from mastlib.transfer import backbone_of, stages_of

COMPILED_PIXELS = 10**8  # of views: compiling takes longer than it saves a run that makes fewer
CLEARLY_FASTER = 0.9  # a precision replaces the plainer one only when its step takes at most this share of the time


def resolve(spec: RunSpec) -> RunSpec:
    """`spec` with "auto" precision and memory format decided by timing a few steps of its backbone on this machine.

    The choice is remembered under `outputs/cache`, so one machine decides once and a spec keeps its run identity; of processes that
    ask at the same moment one decides for all.
    "auto" compilation is on where the run makes at least COMPILED_PIXELS and torch.compile works here.
    """
    device = device_here()
    if spec.compile == "auto":
        pixels = 2 * spec.epochs * spec.images * spec.image_size**2
        worth = pixels >= COMPILED_PIXELS and can_compile(device.type)
        spec = spec.replace(compile="on" if worth else "off")
    if "auto" not in (spec.precision, spec.memory_format):
        return spec
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    network = [spec.backbone, spec.width, spec.stem, stages_of(spec), spec.image_size]
    question = [name, torch.__version__, *network]
    key = hashlib.sha256(json.dumps([*question, spec.precision, spec.memory_format]).encode()).hexdigest()[:16]
    path = outputs_dir() / "cache" / f"precision-{key}.json"
    if not path.is_file():
        with alone(path):
            if not path.is_file():
                write_text(path, json.dumps(_faster(spec, device)))
    return spec.replace(**json.loads(path.read_text()))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch computes with `count` threads, which the last bits of its sums depend on."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _faster(spec: RunSpec, device: torch.device) -> dict[str, str]:
    """The precision and memory format, of those that `spec` leaves open, whose step takes least."""
    options = [
        (precision, memory_format)
        for memory_format in ("contiguous", "channels_last")
        for precision in ("fp32", "bf16")
        if spec.precision in ("auto", precision) and spec.memory_format in ("auto", memory_format)
    ]
    best, best_seconds = options[0], math.inf
    for option in options:
        seconds = _step_seconds(spec, device, *option)
        if seconds < best_seconds * (CLEARLY_FASTER if best_seconds < math.inf else 1):
            best, best_seconds = option, seconds
    return {"precision": best[0], "memory_format": best[1]}


def _step_seconds(spec: RunSpec, device: torch.device, precision: str, memory_format: str) -> float:
    """Seconds of one forward and backward pass of the spec's backbone, the best of three."""
    layout = layout_of(memory_format)
    with torch.random.fork_rng(devices=[]):
        net = backbone_of(spec).to(device).to(memory_format=layout)
    images = torch.zeros(min(spec.batch_size, 128), 3, spec.image_size, spec.image_size, device=device)
    images = images.contiguous(memory_format=layout)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = net(images)
        out.float().square().mean().backward()
        float(out[0, 0].detach())  # waits for an asynchronous device
        times.append(time.perf_counter() - start)
    return min(times[1:])
