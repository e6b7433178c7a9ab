"""One process at a time, among all that share a folder."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mastlib.errors import InputError
from mastlib.files import disk

BEAT = 10.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which an owner counts as gone
POLL = 1.0  # seconds between two looks of a process that waits, at most


class Held:
    """The lock of `path`, as its owner sees it."""

    def __init__(self, handle: io.TextIOWrapper, path: Path) -> None:
        self.handle, self.path = handle, path

    def check(self) -> None:
        """Raises InputError where another process took the lock over, because this one gave no sign of life."""
        if not self.mine():
            raise InputError(
                f"{self.path.stem} was taken over by another process, after {STALE:g} s without a sign of life of this one"
            )

    def mine(self) -> bool:
        """Whether the file at `path` is still the one that was locked."""
        try:
            return os.path.samestat(os.fstat(self.handle.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def alone(target: Path) -> Iterator[Held]:
    """Hold `<target>.lock` for the block, after waiting for its owner, named in one printed line, if there is one.

    The operating system frees the lock of an owner that dies. One that is stopped, or whose children keep the file open, loses it
    when it has given no sign of life for STALE seconds; it learns so from `Held.check`.
    Raises InputError where the file cannot be written.
    """
    path, told = target.with_name(f"{target.name}.lock"), False
    while True:
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - its block is the next statement
        with handle:
            held = Held(handle, path)
            with disk(path):
                told = _wait(held, told)
            if not held.mine():
                continue  # the last owner deleted the file, and a lock on a deleted file keeps nobody out
            try:
                with disk(path):
                    _sign(handle)
                with _beating(handle):
                    yield held
            finally:
                if held.mine():
                    path.unlink(missing_ok=True)
            return


def _wait(held: Held, told: bool) -> bool:
    """Wait until the lock is free, its file is another one, or its owner gone; whether the reader has been told."""
    seen, since, pause = None, time.monotonic(), 0.002
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(held.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return told
        if not held.mine():
            return told
        name, owner = held.path.stem, _owner(held.handle)
        if not told:
            print(f"{name} is being made by {owner}; waiting for it", flush=True)
            told = True
        # By this process's own clock: those of two machines may differ.
        beat = os.fstat(held.handle.fileno()).st_mtime_ns
        if beat != seen:
            seen, since = beat, time.monotonic()
        elif time.monotonic() - since > STALE:
            print(f"{name}: no sign of life of {owner} for {STALE:g} s; going on without it", flush=True)
            if held.mine():
                held.path.unlink(missing_ok=True)
            return told
        time.sleep(pause)
        pause = min(2 * pause, POLL)


@contextlib.contextmanager
def _beating(handle: io.TextIOWrapper) -> Iterator[None]:
    """Within the block the file is touched every BEAT seconds."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # the disk is gone for a while; the file's age will tell
                os.utime(handle.fileno())

    thread = threading.Thread(target=beat, name=f"lock of {handle.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _sign(handle: io.TextIOWrapper) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started})
    # Past the handle's buffer, which on a full disk would fail once more when it is closed.
    os.ftruncate(handle.fileno(), 0)
    os.pwrite(handle.fileno(), owner.encode(), 0)


def _owner(handle: io.TextIOWrapper) -> str:
    handle.seek(0)
    try:
        owner = json.loads(handle.read())
        return f"process {owner['pid']} on {owner['host']} since {owner['started']}"
    except (ValueError, KeyError):  # it has the lock and is about to sign
        return "another process"
