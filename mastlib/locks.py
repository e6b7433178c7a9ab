"""One process at a time, among all that share a folder."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mastlib.files import disk


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold `<target>.lock` for the block, after waiting for its owner, named in one printed line, if there is one.

    The operating system frees the lock of an owner that dies. Raises InputError where the file cannot be written.
    """
    path, told = target.with_name(f"{target.name}.lock"), False
    while True:
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - its block is the next statement
        with handle:
            with disk(path):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not told:
                        print(f"{target.name} is being made by {_owner(handle)}; waiting for it", flush=True)
                        told = True
                    fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle, path):
                continue  # the last owner deleted the file, and a lock on a deleted file keeps nobody out
            try:
                _sign(handle, path)
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(handle: io.TextIOWrapper, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: io.TextIOWrapper, path: Path) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with disk(path):
        handle.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started}, handle)
        handle.flush()


def _owner(handle: io.TextIOWrapper) -> str:
    handle.seek(0)
    try:
        owner = json.loads(handle.read())
        return f"process {owner['pid']} on {owner['host']} since {owner['started']}"
    except (ValueError, KeyError):  # it has the lock and is about to sign
        return "another process"
