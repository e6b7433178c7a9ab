"""What `RunSpec.data` names: images to train on, their classes, images to watch features on."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import signal
import sys
import types
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mastlib.closure import closure_hash
from mastlib.data import bank
from mastlib.data.folders import Decoder, Folder, as_it_is, begin_worker, scan
from mastlib.data.pretraining import drawings, pretraining_images, pretraining_labels
from mastlib.data.splits import concept_split
from mastlib.errors import InputError, check_int, refuse
from mastlib.files import atomic, outputs_dir
from mastlib.locks import alone
from mastlib.progress import bar
from mastlib.signals import STOPPING

Batches = Generator[tuple[Tensor, Tensor], None, None]

BANK = "openemoji"
HELD_BYTES = 4e9  # of a folder's decoded images that are kept, unless `fit` is told otherwise
WATCHED_IMAGES = 4096  # of the bank's, training and validation concepts only: the test concepts are never looked at
SUBSET_SEED, WATCHED_SEED = 4, 5
WORKERS = 8  # processes that decode, at most
PIECE = 32  # images that a worker decodes at once; a batch is made of such pieces


class Images(Protocol):
    """Images to train on, and the one way to read them."""

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Tensor]) -> Batches:
        """For each `(B,)` indices in `order`: these and their images, `(B, 3, S, S)` uint8. Close it if it is left early."""


class Source(Protocol):
    """Images under a name. All methods raise InputError."""

    @property
    def fingerprint(self) -> str:
        """The identity of the data, 64 hexadecimal digits."""

    def check(self, count: int) -> None:
        """Refuse a `count` of images that it does not have."""

    def labels(self, count: int) -> tuple[Tensor, list[str]]:
        """The class of each of the `images`, `(count,)` long, -1 where it has none, and the classes' names."""

    def images(self, count: int, size: int, held_bytes: float = HELD_BYTES) -> Images:
        """`count` images of `size` px to train on, the same for every run."""

    def watched(self, size: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Images `(M, 3, size, size)` to watch features on, their classes `(M,)` if they have any, and which are asked `(M,)`,
        by the others."""


def source_of(data: str, badge: float = 0.0) -> Source:
    """What `data` names: "openemoji", or a folder, which is looked through now; `badge`: see `RunSpec`. Raises InputError."""
    if data == BANK:
        return Scenes()
    if badge:
        raise refuse(
            "badge", badge, f"0 with data = {data!r}: badges are laid over views of scenes, not of a folder's images"
        )
    return Files(scan(data))


class Scenes:
    """Scenes with the objects of the embedded bank."""

    @property
    def fingerprint(self) -> str:
        """The bank's."""
        return bank.fingerprint()

    def check(self, count: int) -> None:
        """Scenes are drawn, as many as are wanted."""

    def labels(self, count: int) -> tuple[Tensor, list[str]]:
        """Categories of the objects."""
        return pretraining_labels(BANK, count)

    def images(self, count: int, size: int, held_bytes: float = HELD_BYTES) -> Images:
        """Rendered once and kept, however large."""
        return Held(pretraining_images(BANK, count, size))

    def watched(self, size: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Drawings with a category, each in a scene of its own; those of validation concepts are asked."""
        made, table, _ = drawings(size, WATCHED_IMAGES)
        split = concept_split(table["concept"])
        keep = (split != "test") & table["category"].notna().to_numpy()
        labels = torch.tensor(table["category"][keep].astype("category").cat.codes.to_numpy(), dtype=torch.long)
        return made.images[torch.tensor(keep)], labels, torch.tensor(split[keep] == "val")


class Files:
    """The image files of a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @property
    def fingerprint(self) -> str:
        """That of names and sizes."""
        return self.folder.fingerprint

    def check(self, count: int) -> None:
        """At most all files."""
        total = len(self.folder.names)
        if check_int("images", count, 1) > total:
            raise refuse("images", count, f"at most {total}, the images in {self.folder.root}")

    def labels(self, count: int) -> tuple[Tensor, list[str]]:
        """The sub-folders that the images lie in."""
        if not self.folder.classes:
            wanted = f"another host with data = {str(self.folder.root)!r}, whose images do not lie in a sub-folder for each class"
            raise refuse("host", "supervised", wanted)
        return torch.from_numpy(self.folder.labels[self._rows(count)]), list(self.folder.classes)

    def images(self, count: int, size: int, held_bytes: float = HELD_BYTES) -> Images:
        """Of a random choice of the files, the same every time, where `count` is less than there are. Those that take no more
        than `held_bytes` are decoded once and kept, others decoded anew each time: the same bytes."""
        rows = self._rows(count)
        if count * 3 * size**2 <= held_bytes:
            return Held(self._decoded(rows, size))
        return self._streamed(rows, size)

    def watched(self, size: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Images evenly spread over the names, in random order; every other one is asked."""
        total = len(self.folder.names)
        rows = np.unique(np.linspace(0, total - 1, min(total, WATCHED_IMAGES)).astype(int))
        mixed = _permutation(len(rows), WATCHED_SEED)  # a stretch of them, whose rank is read, has all classes in it
        labels = torch.from_numpy(self.folder.labels[rows[mixed]]) if self.folder.classes else None
        return self._decoded(rows[mixed], size), labels, torch.from_numpy(mixed % 2 == 1)

    def _rows(self, count: int) -> np.ndarray:
        """The places in `folder.names` of the images to train on, in order."""
        self.check(count)
        return np.sort(_permutation(len(self.folder.names), SUBSET_SEED)[:count])

    def _streamed(self, rows: np.ndarray, size: int) -> Streamed:
        return Streamed(self.folder.root, [self.folder.names[row] for row in rows], size)

    def _decoded(self, rows: np.ndarray, size: int) -> Tensor:
        """The images `(len(rows), 3, size, size)`, memory-mapped from the cache, decoded into it first where absent."""
        which = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        key = {"folder": self.fingerprint, "rows": which, "size": size, "code": closure_hash("mastlib.data.folders")}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        path = outputs_dir() / "cache" / f"folder-{size}px-{name}.npy"
        if not path.is_file():
            with alone(path):  # the processes of one run come here together
                if not path.is_file():
                    self._decode_into(path, rows, size)
        # Copy-on-write: torch asks for a writable array, and the file must stay as it is.
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))

    def _decode_into(self, path: Path, rows: np.ndarray, size: int) -> None:
        stream = self._streamed(rows, size).batches(torch.arange(len(rows)).split(PIECE))
        with contextlib.closing(stream), atomic(path) as temporary, open(temporary, "wb") as handle:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), 3, size, size)}
            np.lib.format.write_array_header_1_0(handle, header)
            with bar(len(rows), f"decoding {self.folder.root.name} {size} px") as shown:
                for _, images in stream:
                    handle.write(images.numpy().tobytes())
                    shown.update(len(images))


def _permutation(count: int, seed: int) -> np.ndarray:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


class Held:
    """Images that are there, in memory or mapped from a file."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Iterable[Tensor]) -> Batches:
        """See `Images`."""
        for batch in order:
            yield batch, self.images[batch]


class Streamed:
    """Images that other processes decode when they are asked for, and somewhat before."""

    def __init__(self, root: Path, names: list[str], size: int) -> None:
        self.root, self.names, self.size = root, names, size

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, order: Iterable[Tensor]) -> Batches:
        """See `Images`. The processes live from the first `next` until this ends, is closed, or this process dies. They read a
        batch ahead, and so does what asks `order` for indices.

        Raises InputError for a file that cannot be decoded, and where a process ends that should not.
        """
        order = iter(order)
        first = next(order, None)
        if first is None:
            return
        asked: deque[Tensor] = deque()

        def pieces() -> Iterator[list[str]]:
            for batch in itertools.chain([first], order):
                asked.append(batch)
                for piece in batch.split(PIECE):
                    yield [self.names[index] for index in piece.tolist()]

        workers = _workers()
        loader = DataLoader(
            Decoder(self.root, self.size),
            batch_sampler=pieces(),
            num_workers=workers,
            prefetch_factor=1 + math.ceil(len(first) / PIECE / workers),
            collate_fn=as_it_is,
            worker_init_fn=begin_worker,
            multiprocessing_context="spawn",
            generator=torch.Generator(),  # else it draws from everybody's
        )
        with self._reading(loader) as stream:
            while (part := self._next(stream)) is not None:
                batch, parts = asked.popleft(), [part]
                while sum(map(len, parts)) < len(batch):
                    part = self._next(stream)
                    assert part is not None
                    parts.append(part)
                yield batch, torch.cat(parts)

    @contextlib.contextmanager
    def _reading(self, loader: DataLoader[Any]) -> Iterator[Iterator[Tensor | InputError]]:
        """The loader's iterator, whose processes end with the block."""
        with _bare_processes():
            try:
                stream: Any = iter(loader)
            except OSError as error:
                raise InputError(
                    f"data: no process can be started to read {str(self.root)!r} ({error.strerror})"
                ) from None
        stop = functools.partial(_stop, stream)
        atexit.register(stop)  # a thread that reads does not come to the end of its block
        try:
            yield stream
        finally:
            stop()
            atexit.unregister(stop)

    def _next(self, stream: Iterator[Tensor | InputError]) -> Tensor | None:
        """The next piece, or None at the end."""
        try:
            part = next(stream, None)
        except (RuntimeError, OSError, EOFError) as error:  # a worker was killed, perhaps while it handed a piece over
            said = " ".join(str(error).split())
            raise InputError(
                f"data: a process that reads {str(self.root)!r} ended; memory, or /dev/shm, may be too small ({said})"
            ) from None
        if isinstance(part, InputError):
            raise part
        return part


def _workers() -> int:
    """How many processes decode: one a core, WORKERS at most; the processes of one run share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@contextlib.contextmanager
def _bare_processes() -> Iterator[None]:
    """Processes that multiprocessing spawns in the block know nothing of the program's main module, and get no request to stop.

    They would import that module, and so begin to train where a script has no `if __name__ == "__main__":`. And a request to
    stop that goes to all processes would end them before they can ignore it; one to this process is kept until the block ends.
    """
    resource_tracker.ensure_running()  # to start it is to unblock the signals
    main, before = sys.modules["__main__"], signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(stream: Any) -> None:
    """End the processes of a DataLoader's iterator."""
    stream._shutdown_workers()
    for worker in stream._workers:
        if worker.is_alive():  # it waits for a disk
            worker.kill()
            worker.join()
