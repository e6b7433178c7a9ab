"""How long runs will take and how much memory, by the runs that are there."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from mastlib.data.sources import source_of
from mastlib.provenance import hardware
from mastlib.runs import Run, RunStore
from mastlib.shipped import there
from mastlib.spec import RunSpec
from mastlib.training import identify

#: What past runs must share with a planned one to say how long it takes an image: the first of these that any run has.
LIKE = (
    ("host", "awareness", "pairing", "augmentations", "without", "uncertainty", "looc_stages", "projector"),
    ("host", "awareness", "pairing"),
    ("host",),
    (),
)
SHAPE = ("backbone", "width", "stem", "image_size", "precision")  # always


@dataclass(frozen=True)
class Forecast:
    """Runs of a plan, those that are there, and for those to train: seconds and peak bytes by like runs, None if unknown.

    `guessed`: how many of those to train have a like run; `seconds` is of these.
    """

    runs: int
    there: int
    guessed: int
    seconds: float | None
    memory: int | None

    def __str__(self) -> str:
        train = self.runs - self.there
        if not train:
            return f"{self.runs} runs, all there"
        text = f"{self.runs} runs: {self.there} there, {train} to train"
        if self.seconds is None:
            return f"{text}, for how long is not known: none like them was trained here"
        some = "" if self.guessed == train else f" for {self.guessed} of them"
        memory = f", up to {self.memory / 1e9:.1f} GB each" if self.memory else ""
        return f"{text}, about {_spelled(self.seconds)}{some}{memory}, by the runs that are there"


def forecast(specs: Iterable[RunSpec], store: RunStore | None = None, at_once: int = 1) -> Forecast:
    """What training `specs` on this machine takes, each once, `at_once` at a time; runs that diverged tell nothing.

    A run's seconds are its passes over images times the median of seconds an image of the runs that are most LIKE it, with
    networks and images of the same SHAPE, from a folder if its are, on the same hardware; the memory is the most that any took.
    """
    store = store or RunStore()
    finished = [run for run in map(store.finished, store.identities()) if run is not None]
    have, here = {run.id for run in finished}, hardware()
    past = [run for run in finished if run.info["status"] != "diverged" and run.info["hardware"] == here]
    specs = list(specs)
    data = {name: source_of(name).fingerprint for name in {spec.data for spec in specs}}
    planned = {}
    for asked in specs:
        spec, identity, _ = identify(asked, data[asked.data])
        planned[identity] = asked, spec
    missing = [
        spec for identity, (asked, spec) in planned.items() if identity not in have and there(asked, store) is None
    ]
    seconds, memory = [], []
    for spec in missing:
        like = _like(spec, past)
        if like:
            images = spec.images * spec.epochs
            seconds.append(
                images * statistics.median(r.info["seconds"] / (r.spec.images * r.spec.epochs) for r in like)
            )
            memory.append(max(run.info["peak_memory"] for run in like))
    return Forecast(
        len(planned),
        len(planned) - len(missing),
        len(seconds),
        max(sum(seconds) / at_once, *seconds) if seconds else None,
        max(memory, default=None),
    )


def _like(spec: RunSpec, past: list[Run]) -> list[Run]:
    for fields in LIKE:
        like = [
            run
            for run in past
            if run.spec.of_folder == spec.of_folder  # files may have to be decoded
            and all(getattr(run.spec, f) == getattr(spec, f) for f in (*SHAPE, *fields))
        ]
        if like:
            return like
    return []


def _spelled(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
