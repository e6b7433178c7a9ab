"""How long chapters take: what they took before, where their runs had to be made and where they were there."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mastlib.experiments import EXPERIMENTS
from mastlib.files import outputs_dir, reference_dir, write_text
from mastlib.shipped import there
from mastlib.spec import RunSpec
from mastlib.study import seeded

FRESH, QUICK, SHARE = (
    "fresh",
    "quick",
    "share",
)  # seconds where a SHARE of the chapter's runs was made, and where none was


def specs_of(chapter: str, values: Mapping[str, Any]) -> dict[tuple[str, int], RunSpec]:
    """What a chapter trains with the parameters `values`, by (arm, seed); nothing for one that compares no runs."""
    if chapter not in EXPERIMENTS:
        return {}
    arms = EXPERIMENTS[chapter]
    return seeded(arms(**{name: values[name] for name in inspect.signature(arms).parameters}), values["seeds"])


class Schedule:
    """What is left of a book at `tier`, `chapters` by short name -> parameters, in the order in which they are executed.

    A chapter takes between its quick and its fresh time, by the share of its runs that are missing, over that share when it was
    made; this machine is as fast as the chapters were that it is done with. Times are those in `outputs/<tier>/times.json`, else
    those that were shipped.
    """

    def __init__(self, tier: str, chapters: Mapping[str, Mapping[str, Any]]) -> None:
        self._file = outputs_dir() / tier / "times.json"
        self._times: dict[str, dict[str, float]] = {}
        for path in (reference_dir() / tier / "times.json", self._file):
            if path.is_file():
                self._times |= json.loads(path.read_text(encoding="utf-8"))
        self._specs = {name: list(specs_of(name, values).values()) for name, values in chapters.items()}
        self._left = list(chapters)
        self._done: list[tuple[float | None, float]] = []

    @contextmanager
    def executing(self, chapter: str) -> Iterator[None]:
        """Around the execution of `chapter`, which takes as long as the block if that ends well."""
        share, expected, started = self._share(chapter), self._expected(chapter), time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._done.append((expected, seconds))
        self.skip(chapter)
        took = {QUICK: round(seconds, 1)} if share == 0 else {}
        if share > 0 or not self._specs[chapter]:
            took |= {FRESH: round(seconds, 1), SHARE: round(share, 3)}
        known = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        mine = self._times.get(chapter, {}) | took
        write_text(self._file, json.dumps(known | {chapter: mine}, indent=1, sort_keys=True))

    def skip(self, chapter: str) -> None:
        """`chapter` is not to be executed any more."""
        self._left = [other for other in self._left if other != chapter]

    def seconds(self, chapters: Sequence[str] | None = None) -> float | None:
        """How long `chapters` take (None: all that are left); None where that of one is not known."""
        expected = [self._expected(chapter) for chapter in (self._left if chapters is None else chapters)]
        done = [(told, took) for told, took in self._done if told]
        slower = sum(took for _, took in done) / sum(told for told, _ in done) if done else 1.0
        return None if None in expected else slower * sum(filter(None, expected))

    def __str__(self) -> str:
        seconds = self.seconds()
        about = "for how long is not known" if seconds is None else f"about {max(1, round(seconds / 60))} min"
        return f"{len(self._left)} chapters to execute, {about}"

    def _share(self, chapter: str) -> float:
        """The share of the chapter's runs that are missing; 0 for one without runs."""
        specs = self._specs.get(chapter, [])
        return sum(there(spec) is None for spec in specs) / len(specs) if specs else 0.0

    def _expected(self, chapter: str) -> float | None:
        """Seconds; without a quick time the fresh one, None without any that tells."""
        times, share = self._times.get(chapter, {}), self._share(chapter)
        fresh, quick = times.get(FRESH), times.get(QUICK, times.get(FRESH))
        if fresh is None or quick is None:
            return None if share else quick
        return quick + (fresh - quick) * (min(1.0, share / times[SHARE]) if share else 0.0)
