"""Where things live (data, outputs), and how a file is written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mastlib.errors import InputError, refuse


def data_dir() -> Path:
    """The image bank's folder: `$MASTLIB_DATA`, else `data/` of the checkout that holds this package."""
    folder = Path(os.environ.get("MASTLIB_DATA") or Path(__file__).parents[1] / "data").absolute()
    if not (folder / "manifest.json").is_file():
        raise refuse("MASTLIB_DATA", str(folder), "a folder with the image bank's manifest.json")
    return folder


def outputs_dir() -> Path:
    """The folder for everything a run makes: `$MASTLIB_OUTPUTS`, else `outputs/` of the checkout; made if absent."""
    folder = Path(os.environ.get("MASTLIB_OUTPUTS") or Path(__file__).parents[1] / "outputs").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # access rights alone do not tell: read-only mounts, root
            pass
    except OSError as error:
        raise refuse("MASTLIB_OUTPUTS", str(folder), f"a folder that can be written ({error.strerror})") from None
    return folder


def reference_dir() -> Path:
    """The folder of results that came with the package: `$MASTLIB_REFERENCE`, else `outputs/reference/` of the checkout."""
    return Path(os.environ.get("MASTLIB_REFERENCE") or Path(__file__).parents[1] / "outputs" / "reference").absolute()


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """An OSError in the block (full disk, folder that cannot be written) becomes an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises InputError that names the file where the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written, there is nothing to remove
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """`text` into `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
