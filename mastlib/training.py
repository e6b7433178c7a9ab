"""The training loop: a spec becomes a finished run, once."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from mastlib.augment.pipeline import Pipeline, Views
from mastlib.augment.presets import get_pipeline
from mastlib.closure import source_closure
from mastlib.data.badges import Badges
from mastlib.data.pretraining import BADGE_SEED
from mastlib.data.sources import HELD_BYTES, Source, source_of
from mastlib.distributed import synchronise
from mastlib.errors import InputError, check_float, check_int, refuse
from mastlib.launch import Fabric, Follower, fabric_of, launch, leading
from mastlib.methods import build_method, modules_of
from mastlib.methods.base import Method, layout_of
from mastlib.monitors import Monitors, collapsed
from mastlib.optim import build_optimizer, learning_rate, peak_lr, set_learning_rate, trainable
from mastlib.precision import resolve, threads
from mastlib.progress import bar
from mastlib.resume import Keeper
from mastlib.runs import PARTS, Run, RunStore, RunWriter, run_id
from mastlib.signals import noted
from mastlib.spec import RunSpec

logging.getLogger(f"{Fabric.__module__.rpartition('.')[0]}.utilities.rank_zero").setLevel(logging.WARNING)  # no tips


class Diverged(ArithmeticError):
    """A loss or gradient was not finite: the step and the part that broke."""


def batches(seed: int, epoch: int, count: int, batch_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[Tensor]:
    """Full batches `(batch_size,)` of one epoch's `count` indices, in an order that is a function of (seed, epoch) alone.

    `part` (r, R): of each batch the r-th, from 0, of R equal parts.
    """
    order = torch.randperm(count, generator=generator(seed, epoch))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size].sort().values.chunk(part[1])[part[0]]


def generator(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator seeded by a hash of `numbers`, such as (seed, epoch, step): a run can be continued anywhere."""
    digest = hashlib.sha256(":".join(map(str, numbers)).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def remaining(spec: RunSpec, epoch: int, position: int, part: tuple[int, int] = (0, 1)) -> Iterator[Tensor]:
    """The `batches` of `spec` from the `position`-th, from 0, of `epoch` on, to the run's end."""
    for later in range(epoch, spec.epochs):
        all_of_it = batches(spec.seed, later, spec.images, spec.batch_size, part)
        yield from itertools.islice(all_of_it, position if later == epoch else 0, None)


def code_of(spec: RunSpec) -> dict[str, str]:
    """The source closure of a run: part of its identity."""
    return source_closure("mastlib.training", *modules_of(spec))


def identify(spec: RunSpec, data: str | None = None) -> tuple[RunSpec, str, dict[str, str]]:
    """`spec` as this machine would run it (`resolve`), the id that the run has, and the source closure that is part of it.

    `data`: the fingerprint of what `spec.data` names, where it is known; to know it a folder must be looked through.
    """
    spec, closure = resolve(spec), code_of(spec)
    return spec, run_id(spec, data or source_of(spec.data).fingerprint, closure), closure


def fit(
    spec: RunSpec,
    *,
    progress: bool = True,
    store: RunStore | None = None,
    checkpoint_seconds: float = 180.0,
    devices: int = 1,
    held_bytes: float = HELD_BYTES,
    whole: bool = False,
) -> Run:
    """The finished run of `spec`: read from the store if it is there, trained if not; a record is trained if `whole`.

    A run that was ended goes on from its last checkpoint, made every `checkpoint_seconds` (0: after every step), at the end of
    epochs, and on SIGINT and SIGTERM, which stop it after the step that runs; it ends with the bits that it would have had.
    With `devices` above 1 as many processes train it, each with its part of every batch of `spec.batch_size` images; torch's
    launcher starts them, none is forked from this one, which may be a notebook's kernel.
    The images of a folder that take at most `held_bytes` decoded are kept so under `outputs/cache`, and mapped into memory; a
    folder with more is streamed: up to eight processes decode its files while the run trains. It ends with the same bits.

    The status in `run.info` is "ok", "collapsed" (`monitors.collapsed`) or "diverged" (a loss or gradient that is not
    finite ends the run; `run.info["reason"]` names step and part). Two processes that ask for one run train it once.
    Raises InputError before any training where the spec cannot be run.
    """
    check_float("checkpoint_seconds", checkpoint_seconds, 0, math.inf)
    check_float("held_bytes", held_bytes, 0, math.inf)
    check_devices(spec, devices)
    source = source_of(spec.data, spec.badge)
    spec, identity, _ = identify(spec, source.fingerprint)
    store = store or RunStore()
    finished = store.finished(identity)
    if finished is not None and (not whole or all(map(finished.has, PARTS))):
        return finished
    if devices > 1:
        launch(spec, store, devices, progress, checkpoint_seconds, held_bytes)
    else:
        train(spec, store, fabric_of(spec), progress, checkpoint_seconds, held_bytes, source)
    run = store.finished(identity)
    assert run is not None
    return run


def whole(run: Run) -> Run:
    """`run`; a record, which came without weights, is trained first, in the store that it lies in, with as many threads."""
    if all(map(run.has, PARTS)):
        return run
    with threads(run.info["threads"]):
        return fit(run.spec, store=RunStore(run.folder.parent), whole=True)


def weights_of(run: Run, part: str) -> dict[str, Tensor]:
    """`run.weights(part)`, of a record as of any other run."""
    return whole(run).weights(part)


def check_devices(spec: RunSpec, devices: int) -> None:
    """InputError where `devices` processes cannot share each batch of `spec` alike."""
    check_int("devices", devices, 1)
    if spec.batch_size % devices:
        raise refuse("devices", devices, f"a divisor of batch_size = {spec.batch_size}")


def train(
    spec: RunSpec,
    store: RunStore,
    fabric: Fabric,
    progress: bool,
    checkpoint_seconds: float,
    held_bytes: float = HELD_BYTES,
    source: Source | None = None,
) -> None:
    """Make the run of `spec`, as it is resolved, in `store`, unless another process makes it first: one of `fabric`'s processes.

    `source`: what `spec.data` names, where it is there already."""
    source = source or source_of(spec.data, spec.badge)
    spec, identity, closure = identify(spec, source.fingerprint)
    pipeline = get_pipeline(spec.augmentations, spec.image_size, spec.without, compiled=spec.compile == "on")
    labels, names = source.labels(spec.images) if spec.host == "supervised" else (torch.empty(0), [])
    source.check(spec.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        method = build_method(spec, pipeline.names, len(names))
    with leading(fabric, store, identity, spec, data=source.fingerprint, closure=closure) as writer:
        if not writer.finished:  # else another process trained it while this one waited
            _train(spec, pipeline, method, labels, source, writer, fabric, progress, checkpoint_seconds, held_bytes)


def _train(
    spec: RunSpec,
    pipeline: Pipeline,
    method: Method,
    labels: Tensor,
    source: Source,
    writer: RunWriter | Follower,
    fabric: Fabric,
    progress: bool,
    checkpoint_seconds: float,
    held_bytes: float,
) -> None:
    """Train `method` from its first step, or an earlier process's last checkpoint, to its last step, or to the first loss or
    gradient that is not finite. Of several processes each has its part of every batch; the first one alone keeps and tells."""
    images = source.images(spec.images, spec.image_size, held_bytes)
    monitors = Monitors(*source.watched(spec.image_size))
    part, first = (fabric.global_rank, fabric.world_size), fabric.global_rank == 0
    method.to(memory_format=layout_of(spec.memory_format))
    if fabric.world_size > 1:
        synchronise(method, fabric.device)
    wrapped, optimizer = fabric.setup(method, build_optimizer(method, spec))
    badges = Badges(spec.badge, spec.image_size, BADGE_SEED, fabric.device) if spec.badge else None
    steps = spec.images // spec.batch_size
    room: Tensor | None = None  # the views' memory, used again at every step
    status, reason, watched = "ok", "", {"rank": math.nan, "knn": math.nan}
    keeper = Keeper(writer, method, optimizer, checkpoint_seconds, fabric)
    place = keeper.restore()
    label = f"{named(spec)} seed {spec.seed}"
    # One stream for all epochs: while an epoch ends, the images of the next one are on their way.
    stream = images.batches(remaining(spec, place.epoch, place.position, part))
    with (
        noted() as asked,
        bar(spec.epochs * steps, label, show=progress and first) as shown,
        contextlib.closing(stream),
    ):
        shown.update(place.epoch * steps + place.position)
        while place.epoch < spec.epochs:
            epoch, start = place.epoch, time.perf_counter()
            method.train()
            try:
                for batch, pixels in itertools.islice(stream, steps - place.position):
                    step = epoch * steps + place.position
                    set_learning_rate(optimizer, learning_rate(spec, step, steps), peak_lr(spec))
                    draw = generator(spec.seed, epoch, step, device=fabric.device)
                    views = make_views(spec, method, pipeline, pixels.to(fabric.device), draw, room, part)
                    room = views.images
                    if badges:
                        badges.lay(views.images, batch)
                    parts = wrapped(views, step, labels[batch].to(fabric.device) if method.wants_labels else None)
                    optimizer.zero_grad()
                    fabric.backward(parts["loss"])
                    values = _finite(method, parts, step)
                    optimizer.step()
                    place.add(values)
                    shown.update()
                    if keeper.due(asked):
                        place.seconds += time.perf_counter() - start
                        keeper.save(place, step + 1)
                        asked.obey()
                        start = time.perf_counter()
            except Diverged as problem:
                status, reason = "diverged", str(problem)
            place.seconds += time.perf_counter() - start
            if status == "diverged":
                break
            last = epoch == spec.epochs - 1
            due = last or (spec.knn_every > 0 and (epoch + 1) % spec.knn_every == 0)
            try:
                watched = monitors.read(method.backbone) if due else {"rank": math.nan, "knn": math.nan}
            except InputError as problem:  # the last step broke the weights; no later loss would show it
                status, reason = "diverged", f"epoch {epoch + 1}: {problem}"
                break
            means = {name: total / steps for name, total in keeper.of_all(place.sums).items()}
            lr = learning_rate(spec, (epoch + 1) * steps, steps)
            rate = spec.images * (epoch + 1) / place.seconds
            writer.log(epoch=epoch + 1, lr=lr, **means, **watched, seconds=place.seconds, images_per_second=rate)
            shown.set_postfix_str(f"loss {means['loss']:.3f}", refresh=False)
            place.turn()
            if not last and keeper.due(asked, epoch_ended=True):
                keeper.save(place, place.epoch * steps)
                asked.obey()
    if status == "ok" and collapsed(means["embedding_std"], watched["rank"]):
        status, reason = (
            "collapsed",
            f"embedding std {means['embedding_std']:.3f}, effective rank {watched['rank']:.2f}",
        )
    info = {
        "reason": reason,
        "device": str(fabric.device),
        "devices": fabric.world_size,
        "augmentations": list(pipeline.names),
        "seconds": place.seconds,
        "images_per_second": spec.images * spec.epochs / place.seconds if status != "diverged" else math.nan,
        "peak_memory": _peak_memory(fabric.device),
        "parameters": sum(p.numel() for p in method.parameters()),
        "backbone_parameters": sum(p.numel() for p in method.backbone.parameters()),
    }
    writer.finish(status, info, backbone=method.backbone.state_dict(), method=method.state_dict())
    asked.obey()  # a request that came too late to stop this run is one to stop what comes after it


def named(spec: RunSpec) -> str:
    """The host and what it is aware of, such as "vicreg" or "moco + augself"."""
    plus = "++" if spec.looc_stages else ""
    return spec.host if spec.awareness == "none" else f"{spec.host} + {spec.awareness}{plus}"


def make_views(
    spec: RunSpec,
    method: Method,
    pipeline: Pipeline,
    images: Tensor,
    draw: torch.Generator,
    room: Tensor | None = None,
    part: tuple[int, int] = (0, 1),
) -> Views:
    """The views of `images` `(N, 3, S, S)`, which are this `part` of a batch, that `spec` asks for, written to `room` if given."""
    return pipeline.views(
        images,
        spec.pairing,
        draw,
        spec.crop_redrawn,
        color_diff=method.aware.wants_color_diff,
        isolated=spec.isolated,
        out=room,
        part=part,
    )


def _finite(method: Method, parts: dict[str, Tensor], step: int) -> dict[str, float]:
    """The parts as numbers; raises Diverged where one, or the gradient's norm, is not finite."""
    numbers = torch.stack(
        [value.detach().double() for value in parts.values()]
    ).tolist()  # a device waits once, not for each
    values = dict(zip(parts, numbers, strict=True))
    values["gradient_norm"] = float(
        torch.nn.utils.get_total_norm([p.grad for p in trainable(method) if p.grad is not None])
    )
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(f"step {step}: {', '.join(broken)} not finite")
    return values


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else this process's largest resident size so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
