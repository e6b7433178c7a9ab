"""A folder of images: what is in it, and a file as pixels. Processes that only read images import this, so it imports little."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mastlib.errors import InputError, refuse
from mastlib.signals import STOPPING

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """The images of the folder `root`: `names`, POSIX paths relative to it, in the order of their bytes.

    `classes`: the names of its sub-folders, sorted, where all images lie in sub-folders and there are two or more; else none.
    `labels` `(N,)` int64: each image's class, -1 where there are none.
    `fingerprint`: sha256 over names and sizes, 64 hexadecimal digits. What is in the files is not read, for there may be
    too many: a file whose content changes and whose size does not is taken for the same.
    """

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    fingerprint: str


def scan(path: str) -> Folder:
    """The image files (SUFFIXES, in any case) under `path`; hidden ones are left out, links to folders not followed.

    Raises InputError where there are none, or the folder cannot be read.
    """
    root = Path(path).expanduser().absolute()
    try:
        found = sorted(_files(str(root)))
    except OSError as error:
        if error.filename is None or Path(error.filename) != root:
            raise InputError(f"data: {error.filename!r} cannot be read ({error.strerror})") from None
        raise refuse("data", path, f"openemoji, or a folder of images ({error.strerror})") from None
    if not found:
        raise refuse("data", path, f"openemoji, or a folder with images ({', '.join(SUFFIXES)}); there are none in it")
    names = tuple(os.fsdecode(name) for name, _ in found)
    above = [name.partition("/")[0] for name in names]
    classes = tuple(sorted(set(above)))
    if len(classes) < 2 or not all("/" in name for name in names):
        classes = ()
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in above], dtype=np.int64)
    digest = hashlib.sha256(b"".join(b"%s\0%d\0" % entry for entry in found)).hexdigest()
    return Folder(root, names, classes, labels, digest)


def _files(root: str) -> Iterator[tuple[bytes, int]]:
    """Name and size in bytes of each image file, in no order; raises OSError."""

    def stop(error: OSError) -> None:
        raise error

    for folder, inner, files in os.walk(root, onerror=stop):
        inner[:] = [name for name in inner if not name.startswith(".")]
        prefix = "" if folder == root else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                facts = os.stat(os.path.join(folder, name))
                if stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
                    yield os.fsencode(prefix + name), facts.st_size


def decode(path: Path, size: int) -> Tensor:
    """The image in a file: `(3, size, size)` uint8, of its shorter side and the middle of its longer one.

    Turned as EXIF says; of several frames the first; on white where it is transparent; 16 bits of grey become 8. Large JPEGs are
    decoded at a fraction of their size, but no smaller than twice `size`.
    Raises InputError that names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # very large, or with damaged EXIF: the pixels are there
            with Image.open(path) as image:
                image.draft(None, (2 * size, 2 * size))
                image.load()
                plain = _plain(_upright(image))
        short, (width, height) = min(plain.size), plain.size
        left, top = (width - short) / 2, (height - short) / 2
        # The resampling reads what lies around the box too: up to rounding as if all of it were resized and then cropped.
        square = plain.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
    except Exception as error:  # damaged files break the decoders in many ways
        said = " ".join(str(error).split()) if not isinstance(error, OSError) or error.errno is None else error.strerror
        raise InputError(f"data: {str(path)!r} cannot be decoded ({type(error).__name__}: {said})") from None


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF data say."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing
        return image
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """`image` as RGB."""
    if image.mode.startswith("I"):  # 16 bits of grey, in 16 or in 32
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("pixels are fractions, of which it is not known what white is")
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class Decoder(Dataset[Tensor]):
    """Images of the folder `root` by name, `size` px: what a DataLoader's worker has."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.size = root, size

    def __getitem__(self, name: str) -> Tensor:
        """The image, `(3, size, size)` uint8; raises InputError."""
        return decode(self.root / name, self.size)

    def __getitems__(self, names: list[str]) -> Tensor | InputError:
        """Images `(B, 3, size, size)`, or the error of the first that cannot be decoded: an exception that a worker
        raises arrives as a text of many lines."""
        images = torch.empty(len(names), 3, self.size, self.size, dtype=torch.uint8)
        try:
            for row, name in enumerate(names):
                images[row] = self[name]
        except InputError as error:
            return error
        return images


def as_it_is(batch: Any) -> Any:
    """The `collate_fn` for Decoder, whose batches are whole."""
    return batch


def begin_worker(number: int) -> None:
    """Let a worker end with the process that started it, and by no request to stop: these go to all processes, and the one that
    trains needs its workers until it has saved."""
    for request in STOPPING:
        signal.signal(request, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """torch looks every five seconds whether the parent is another one, in vain where it was killed before the worker began."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
