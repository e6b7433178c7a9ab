"""The run store: a finished run is a folder that appears whole, is found by what it computes, and is made once."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from mastlib import checkpoints
from mastlib.closure import combine
from mastlib.errors import InputError, check_choice, refuse
from mastlib.files import atomic, disk, outputs_dir, write_text
from mastlib.locks import Held, alone
from mastlib.provenance import git_state, hardware, versions
from mastlib.spec import RunSpec

FINISHED = ("ok", "collapsed", "diverged")  # statuses of a run that came to an end; "interrupted" is the fourth
PARTS = ("backbone", "method")
RECORDED = ("spec.json", "metrics.csv")  # the files that a record has for sure
RESUME = "resume"  # folder of checkpoints in a run that is being made


def run_id(spec: RunSpec, data: str, closure: Mapping[str, str]) -> str:
    """16 hexadecimal digits that stand for the whole spec, the data's fingerprint and the code (see `source_closure`).

    Raises InputError while `precision`, `memory_format` or `compile` is "auto": what runs must be known.
    """
    for name in ("precision", "memory_format", "compile"):
        if getattr(spec, name) == "auto":
            raise refuse(name, "auto", "a resolved value, for a run's identity depends on it")
    return _identity(spec.to_dict(), data, combine(closure))


def _identity(spec: Mapping[str, Any], data: str, code: str) -> str:
    if spec["data"] != "openemoji":  # a folder is what is in it, wherever it lies
        spec = {**spec, "data": "folder"}
    return hashlib.sha256(_json({"spec": spec, "data": data, "code": code}).encode()).hexdigest()[:16]


class OtherVersion(InputError):
    """A run that is whole, but of a version of the package with other settings."""


@dataclass(frozen=True)
class Run:
    """A finished run: `info` is run.json (status, versions, device, seed, times, ...); files are read on demand.

    Everything read is checked against the sha256 in run.json; raises InputError that names a damaged file. A *record* is a run
    that came here without its weights, as `info["record"]` says.
    """

    id: str
    folder: Path
    spec: RunSpec
    info: dict[str, Any]

    def metrics(self) -> pd.DataFrame:
        """One row per `log` of the training loop; numbers are those that were logged, to the last bit."""
        text = _verified(self.folder / "metrics.csv", self.info)
        return pd.read_csv(io.BytesIO(text), float_precision="round_trip") if text else pd.DataFrame()

    def has(self, part: str) -> bool:
        """Whether the weights of `part` are here, which only a record may lack."""
        return (
            not self.info.get("record") or (self.folder / f"{check_choice('part', part, PARTS)}.safetensors").is_file()
        )

    def weights(self, part: str) -> dict[str, Tensor]:
        """The state dict of "backbone" (what transfers) or of "method" (all of it), on the CPU."""
        name = check_choice("part", part, PARTS) + ".safetensors"
        return safetensors.torch.load(_verified(self.folder / name, self.info))

    def verify(self) -> None:
        """Hash every file anew; raises InputError that names the first one that is damaged."""
        for name in _here(self.folder, self.info):
            _verified(self.folder / name, self.info)


class RunStore:
    """The runs under `root`, by default `outputs/runs`. There is no index: folders are all there is."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or outputs_dir() / "runs").absolute()

    def folder(self, identity: str) -> Path:
        """Where the finished run lies, or would lie."""
        if not re.fullmatch("[0-9a-f]{16}", identity):
            raise refuse("run id", identity, "16 hexadecimal digits")
        return self.root / identity

    def working(self, identity: str) -> Path:
        """Where the run lies while it is made."""
        return self.folder(identity).with_name(f".{identity}.partial")

    def finished(self, identity: str) -> Run | None:
        """The finished run, or None; a damaged one counts as not finished, with a warning that names the file.

        One of a version of the package that had other settings counts as not finished too, with no warning.
        """
        folder = self.folder(identity)
        if not folder.is_dir():
            return None
        try:
            return _read(folder)
        except OtherVersion:
            return None
        except InputError as error:
            warnings.warn(f"run {identity} counts as not finished: {error}", stacklevel=2)
            return None

    def read(self, prefix: str) -> Run:
        """The one finished run whose id begins with `prefix`; raises InputError where that is none or several, or it is damaged."""
        found = [name for name in self.identities() if name.startswith(prefix)]
        if len(found) != 1:
            raise refuse(
                "run", prefix, f"the beginning of one run's id; {len(found)} of {len(self.identities())} have it"
            )
        return _read(self.folder(found[0]))

    def identities(self) -> list[str]:
        """The ids of the runs that have a folder, damaged ones too."""
        return sorted(path.name for path in self.root.glob("*") if re.fullmatch("[0-9a-f]{16}", path.name))

    def unfinished(self) -> list[str]:
        """The ids of the runs that are being made, or were ended."""
        return sorted(
            found[1] for p in self.root.glob(".*") if (found := re.fullmatch(r"\.([0-9a-f]{16})\.partial", p.name))
        )

    def runs(self) -> pd.DataFrame:
        """One row per finished run, oldest first: run_id, status, finished, seconds, and every field of its spec."""
        found = [run for run in map(self.finished, self.identities()) if run is not None]
        columns = ["run_id", "status", "finished", "seconds"]
        rows = [{name: run.info.get(name) for name in columns} | vars(run.spec) for run in found]
        table = pd.DataFrame(rows, columns=[*columns, *RunSpec.__dataclass_fields__])
        return table.sort_values(["finished", "run_id"], ignore_index=True)

    @contextlib.contextmanager
    def writer(self, identity: str, spec: RunSpec, *, data: str, closure: Mapping[str, str]) -> Iterator[RunWriter]:
        """The only writer of a run, among all processes that share this folder; others wait here for it to end.

        Where the run is there by then with its weights, `writer.finished` is that run and nothing is to be done. If the block
        fails or ends without `finish`, the working folder's run.json says "interrupted", and the next writer goes on from its
        checkpoint.
        Raises InputError where the disk is full or cannot be written.
        """
        if identity != run_id(spec, data, closure):
            raise refuse("run id", identity, "the identity of this spec, data and code")
        with alone(self.folder(identity)) as held:
            writer = RunWriter(self, identity, spec, data, closure, held)
            try:
                yield writer
                writer.interrupted("ended before it was finished")
            except BaseException as error:
                writer.interrupted(f"{type(error).__name__}: {error}")
                raise


class RunWriter:
    """A run in the making, in `.<run id>.partial` beside the finished ones; made by `RunStore.writer`.

    `resume/` in the working folder holds the checkpoints that a run which was ended goes on from.
    """

    def __init__(
        self, store: RunStore, identity: str, spec: RunSpec, data: str, closure: Mapping[str, str], held: Held
    ) -> None:
        self.target, self.folder = store.folder(identity), store.working(identity)
        there = store.finished(identity)
        self.finished, self.held = there if there and all(map(there.has, PARTS)) else None, held
        self._columns: list[str] | None = None
        self._begun = time.monotonic()
        if self.finished is not None:
            return
        with disk(self.folder):
            self.folder.mkdir(exist_ok=True)
            for left in self.folder.iterdir():  # of a process that was ended: this one holds the lock
                if left.is_dir() and left.name != RESUME:
                    shutil.rmtree(left)
                elif not left.is_dir():
                    left.unlink()
            (self.folder / "metrics.csv").touch()
        write_text(self.folder / "spec.json", _json(spec.to_dict(), indent=2))
        self._info = {
            "run_id": identity, "seed": spec.seed, "data": data, "code": combine(closure), "closure": dict(closure),
            "started": _now(), "git": git_state(), "versions": versions(), "hardware": hardware(),
            "threads": torch.get_num_threads(),
        }  # fmt: skip

    def log(self, **scalars: Any) -> None:
        """Add a row to metrics.csv, readable at once. The first row names the columns; None leaves a cell empty.

        Raises InputError for other columns than the first row's.
        """
        columns = self._columns or list(scalars)
        if set(columns) != set(scalars):
            raise refuse("metrics", list(scalars), f"the columns of the first row: {', '.join(columns)}")
        row = [value.item() if hasattr(value, "item") else value for value in (scalars[name] for name in columns)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([row] if self._columns else [columns, row])
        path = self.folder / "metrics.csv"
        with disk(path), open(path, "a", encoding="utf-8", newline="") as handle:  # closing it flushes
            handle.write(text.getvalue())
        self._columns = columns

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep what the run needs to go on from `step`, with the rows of metrics.csv so far.

        Raises InputError where the disk is full, or another process has taken the run over.
        """
        self.held.check()
        rows = (self.folder / "metrics.csv").read_text(encoding="utf-8")
        checkpoints.save(self.folder / RESUME, step, tensors, {**facts, "metrics": rows})

    def resume(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last checkpoint of an earlier process, its rows put back into metrics.csv; else None."""
        found = checkpoints.newest(self.folder / RESUME)
        if found is not None:
            write_text(self.folder / "metrics.csv", found[1]["metrics"])
            self._columns = next(csv.reader(io.StringIO(found[1]["metrics"])), None)
        return found

    def finish(
        self, status: str, info: Mapping[str, Any], *, backbone: Mapping[str, Tensor], method: Mapping[str, Tensor]
    ) -> Run:
        """Store both state dicts and run.json, and give the folder its name: from here on the run is finished.

        `info` joins what the writer knows itself (git state, versions, seed, ...) and may say `seconds` better.
        Raises InputError for an unknown status, an `info` that contradicts the writer, a disk that is full, or where another
        process has taken the run over.
        """
        check_choice("status", status, FINISHED)
        self.held.check()
        clash = sorted({"status", "finished", "files", *self._info} & set(info))
        if clash:
            raise refuse("info", clash, "names that the store does not write itself")
        for part, state in zip(PARTS, (backbone, method), strict=True):
            # A copy each, because safetensors takes no memory that two tensors share; bytes, because its own writing
            # does not say that a disk is full.
            plain = {k: state[k].detach().cpu().clone(memory_format=torch.contiguous_format) for k in sorted(state)}
            with atomic(self.folder / f"{part}.safetensors") as path:
                path.write_bytes(safetensors.torch.save(plain))
        files = {}
        for name in ("spec.json", "metrics.csv", *(f"{part}.safetensors" for part in PARTS)):
            with disk(self.folder / name), open(self.folder / name, "rb") as handle:
                os.fsync(handle.fileno())
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                files[name] = {"sha256": digest, "bytes": handle.tell()}
        self._end(status, **{"seconds": time.monotonic() - self._begun, **info, "files": files})
        with disk(self.target):
            shutil.rmtree(self.folder / RESUME, ignore_errors=True)
            if self.target.exists():  # a damaged run, or a record, which this one replaces
                if _same_weights(self.target, files):
                    (self.target / "tasks").rename(self.folder / "tasks")  # rows of these very weights
                shutil.rmtree(self.target)
            self.folder.rename(self.target)
        self.finished = _read(self.target)
        return self.finished

    def interrupted(self, reason: str) -> None:
        """Say in the working folder's run.json, if the disk lets us, that the run did not end; nothing if it did or is not ours."""
        if self.finished is None and self.held.mine():
            with contextlib.suppress(InputError):
                self._end("interrupted", reason=reason)

    def _end(self, status: str, **more: Any) -> None:
        info = {**self._info, "status": status, "finished": _now(), **more}
        write_text(self.folder / "run.json", _json(info, indent=2))


def _read(folder: Path) -> Run:
    """The run in `folder`; raises InputError that names what is missing or damaged, OtherVersion if settings are not today's."""
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for name in _here(folder, info):
            if (folder / name).stat().st_size != info["files"][name]["bytes"]:
                raise InputError(f"{folder / name} is damaged (its size is not the recorded one)")
        spec = json.loads(_verified(folder / "spec.json", info))
        if info["status"] not in FINISHED or _identity(spec, info["data"], info["code"]) != folder.name:
            raise InputError(f"{folder / 'run.json'} is damaged (it describes another run)")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / 'run.json'} is damaged ({type(error).__name__})") from None
    try:
        return Run(folder.name, folder, RunSpec.from_dict(spec), info)
    except InputError as error:
        raise OtherVersion(f"{folder.name} is of another version of mastlib: {error}") from None


def _here(folder: Path, info: Mapping[str, Any]) -> list[str]:
    """The run's files, without the weights that a record lacks."""
    record = info.get("record")
    return [name for name in info["files"] if not record or name in RECORDED or (folder / name).is_file()]


def _same_weights(folder: Path, files: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` has the weights of `files`, and rows of tasks."""
    try:
        there = json.loads((folder / "run.json").read_text(encoding="utf-8"))["files"]
        return (folder / "tasks").is_dir() and all(
            there[f"{p}.safetensors"] == files[f"{p}.safetensors"] for p in PARTS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _verified(path: Path, info: Mapping[str, Any]) -> bytes:
    """The file's bytes, if they are those that run.json records."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); delete its folder and run again") from None
    if hashlib.sha256(content).hexdigest() != info["files"][path.name]["sha256"]:
        raise InputError(f"{path} is damaged (its sha256 is not the recorded one); delete its folder and run again")
    return content


def _json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys; NumPy's and torch's numbers as plain ones; null for nan and infinity, which JSON lacks."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {str(key): plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        if hasattr(item, "item"):
            return plain(item.item())
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), sort_keys=True, indent=indent, allow_nan=False, default=str)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
