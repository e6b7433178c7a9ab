"""The runs that a tier's chapters need, as one table, and each of them trained by a process of its own.

Under `outputs/grid/<tier>/`: `runs/<name>.json` is the task of a run, `runs/<name>.done` the receipt (`python -m mastlib fit TASK
--receipt FILE`); `chapters/<chapter>.json` and `.done` are a chapter's. `make grid` and the Snakefile have these files in common.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mastlib.book import Given, add_options, given_by, plan
from mastlib.closure import combine
from mastlib.data.sources import source_of
from mastlib.errors import InputError, check_int
from mastlib.files import outputs_dir, write_text
from mastlib.forecast import Forecast, forecast
from mastlib.runs import RunStore
from mastlib.schedule import specs_of
from mastlib.shipped import there
from mastlib.signals import noted
from mastlib.spec import RunSpec
from mastlib.study import tier_pools
from mastlib.tiers import TIERS, Tier
from mastlib.training import code_of, identify
from mastlib.workers import at_once

TAIL = 3  # lines of a failed run's log that are shown


@dataclass(frozen=True)
class Row:
    """A run of the grid: the first of its chapters names it, with the arm and the seed there."""

    name: str  # of letters, digits and dashes, such as "04-vicreg-no-colour-ops-0"
    arm: str
    spec: RunSpec


@dataclass(frozen=True)
class Grid:
    """What the chapters of `tier` train: each run once, and what each chapter needs, all chapters in the order of the book."""

    tier: str
    rows: tuple[Row, ...]
    needs: dict[str, tuple[str, ...]]  # chapter -> names of rows
    keys: dict[str, str]  # chapter -> identity of all that goes into it
    after: dict[str, tuple[str, ...]]  # chapter -> those whose evidence it reads

    @property
    def folder(self) -> Path:
        """Where tasks and receipts lie."""
        return outputs_dir() / "grid" / self.tier

    def task(self, row: Row) -> Path:
        """The file that says what is to be trained."""
        return self.folder / "runs" / f"{row.name}.json"

    def table(self) -> pd.DataFrame:
        """A row for each run: its name, the chapters that need it, arm, seed, and whether it is there."""
        chapters = [", ".join(c for c, names in self.needs.items() if row.name in names) for row in self.rows]
        there = ["" if _missing(row.spec) else "yes" for row in self.rows]
        facts = {"name": [row.name for row in self.rows], "arm": [row.arm for row in self.rows]}
        return pd.DataFrame(
            {**facts, "seed": [row.spec.seed for row in self.rows], "chapters": chapters, "there": there}
        )

    def forecast(self) -> Forecast:
        """How long training it takes on this machine, by the runs that are there."""
        return forecast((row.spec for row in self.rows), at_once=_slots(TIERS[self.tier]))

    def write(self) -> None:
        """Lay out the tasks; a receipt stays only where it is of the same task, code and data, and its run or page is there."""
        store = RunStore()
        data = {name: source_of(name).fingerprint for name in {row.spec.data for row in self.rows}}
        for row in self.rows:
            task = {"spec": row.spec.to_dict(), "data": data[row.spec.data], "code": combine(code_of(row.spec))}
            receipt = _laid(self.task(row), task)
            if receipt.is_file() and store.finished(json.loads(receipt.read_text())["run_id"]) is None:
                receipt.unlink()
        executed = {path.stem for path in (outputs_dir() / "executed" / self.tier).rglob("*.ipynb")}
        for chapter, key in self.keys.items():
            receipt = _laid(self.folder / "chapters" / f"{chapter}.json", {"key": key})
            if chapter not in executed:
                receipt.unlink(missing_ok=True)
        size = TIERS[self.tier]
        asked = {"cpus": size.cpus, "gpus": size.gpus, "memory": size.memory, "minutes": size.minutes}
        write_text(
            self.folder / "grid.json", json.dumps({"needs": self.needs, "after": self.after, "asked": asked}, indent=1)
        )


def grid(root: Path, tier: str, given: Given) -> Grid:
    """The grid of the book in `root` at `tier`, its chapters with the parameters `given` over their own.

    Raises InputError as `book.plan` does, and where a chapter's seeds or settings cannot be used.
    """
    _, chapters = plan(root, tier, given)
    rows: dict[RunSpec, Row] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for chapter in chapters:
        mine: list[str] = []
        for (arm, seed), spec in specs_of(chapter.short, chapter.values).items():
            row = rows.setdefault(spec, Row(_slug(f"{chapter.short[:2]} {arm} {seed}"), arm, spec))
            mine.append(row.name)
        needs[chapter.short] = tuple(mine)
    after = {c.short: tuple(o.short for o in chapters if o is not c) if c.reads_evidence else () for c in chapters}
    return Grid(tier, tuple(rows.values()), needs, {chapter.short: chapter.key for chapter in chapters}, after)


def prepare(planned: Grid) -> None:
    """What all runs of the grid share, made once before they start: this machine's choices, rendered images."""
    for spec in dict.fromkeys(row.spec.replace(seed=0) for row in planned.rows):
        identify(spec)
    for data, count, size in {(r.spec.data, r.spec.images, r.spec.image_size) for r in planned.rows}:
        source = source_of(data)
        source.images(count, size)
        source.watched(size)
        tier_pools(planned.tier, size)


def train_grid(planned: Grid, jobs: int | None = None) -> list[str]:
    """Train what is missing, `jobs` processes at a time (None: what cores or GPUs allow); the names of those that failed.

    Each process has the threads and GPUs that the tier states, so that a run's bits do not depend on how many there are. A failed
    run stops no other; its last lines are shown. On SIGINT and SIGTERM the processes save and end, and so does this one.
    """
    slots = _slots(TIERS[planned.tier]) if jobs is None else check_int("jobs", jobs, 1)
    planned.write()
    missing = [row for row in planned.rows if _missing(row.spec)]
    print(planned.forecast(), flush=True)
    if missing:
        prepare(planned)
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(slots):
        free.put(slot)
    running: set[subprocess.Popen[bytes]] = set()

    def train(row: Row) -> int:
        slot = free.get()
        try:
            if asked.number is not None:
                return 0
            with _process(planned, row, slot) as process:
                running.add(process)
                code = process.wait()
                running.discard(process)
        finally:
            free.put(slot)
        if asked.number is None:
            told = [f"failed with code {code}", *_tail(planned, row)] if code else ["done"]
            print(f"{row.name}:", "\n  ".join(told), flush=True)
        return code

    def stop() -> None:
        for process in list(running):
            process.terminate()

    with noted(stop) as asked, ThreadPoolExecutor(slots) as pool:
        codes = list(pool.map(train, missing))
    asked.obey()
    return [row.name for row, code in zip(missing, codes, strict=True) if code]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a run failed, 2 an input cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m mastlib.grid", description="The runs that a tier's chapters need.")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, text in (
        ("list", "all of them, and how long training those takes that are missing"),
        ("prepare", "make what they share: images, this machine's choices"),
        ("run", "train what is missing, a process for each run"),
    ):
        one = actions.add_parser(name, help=text)
        add_options(one)
    one.add_argument("--jobs", type=int, help="runs at a time (default: what cores or GPUs allow)")
    chosen = parser.parse_args(arguments)
    try:
        planned = grid(chosen.book, chosen.tier, given_by(chosen.parameter))
        if chosen.action == "run":
            return 1 if train_grid(planned, chosen.jobs) else 0
        if chosen.action == "prepare":
            prepare(planned)
        else:
            print(planned.table().to_string(index=False), planned.forecast(), sep="\n")
    except InputError as error:
        print(f"grid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("grid: interrupted; runs go on from here when they are asked for again", file=sys.stderr)
        return 130
    return 0


def _process(planned: Grid, row: Row, slot: int) -> subprocess.Popen[bytes]:
    """The process that trains `row`, in the `slot`-th share of the machine."""
    size, task = TIERS[planned.tier], planned.task(row)
    environment = os.environ | {"OMP_NUM_THREADS": str(size.cpus), "MASTLIB_OUTPUTS": str(outputs_dir())}
    gpus = _gpus()[slot * size.gpus : (slot + 1) * size.gpus]
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    command = [sys.executable, "-m", "mastlib", "fit", str(task), "--receipt", str(task.with_suffix(".done"))]
    command += ["--devices", str(max(1, len(gpus)))]
    with open(_log(planned, row), "wb") as log:
        # A session of its own: what a terminal sends to all of its processes would reach it twice.
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _slots(size: Tier) -> int:
    """How many runs this machine trains at a time."""
    return max(1, len(_gpus()) // size.gpus) if size.gpus else at_once(size.cpus)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, or would."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(torch.cuda.device_count())] if named is None else [n for n in named.split(",") if n]


def _missing(spec: RunSpec) -> bool:
    return there(spec) is None


def _log(planned: Grid, row: Row) -> Path:
    return planned.task(row).with_suffix(".log")


def _tail(planned: Grid, row: Row) -> list[str]:
    """The last lines that the run's process wrote, and where all of them are."""
    path = _log(planned, row)
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return [*lines[-TAIL:], f"all it wrote: {path}"]


def _laid(path: Path, task: Mapping[str, Any]) -> Path:
    """The receipt of the task that `path` holds from now on; deleted if that was another task."""
    text, receipt = json.dumps(task, indent=1, sort_keys=True), path.with_suffix(".done")
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        receipt.unlink(missing_ok=True)
        write_text(path, text)
    return receipt


def _slug(text: str) -> str:
    """`text` in letters, digits and dashes."""
    return "-".join(re.findall("[a-z0-9]+", text.lower().replace("+", " with ")))


if __name__ == "__main__":
    sys.exit(main())
