"""The embedded image bank: emoji of five art teams with labels, and satellite backgrounds."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mastlib.errors import InputError, check_choice, refuse
from mastlib.files import data_dir

VENDORS = ("twemoji", "openmoji", "noto", "fluent-flat", "fluent-3d")
REBUILD = "`python data/build.py` rebuilds it (with the extra `data` installed)"


@dataclass(frozen=True)
class Bank:
    """Images and their labels, row for row.

    `images`: uint8 (N, 4, 64, 64), RGBA with straight alpha, RGB 0 where alpha is 0; the longer side of the drawn
    object fills the 64 pixels, the shorter one is centred.
    `table`: N rows with the columns vendor, key (code points, "1F44D-1F3FB"), concept (the unit of every split), name,
    category, subcategory, tone ("1" light .. "5" dark: a palette, not people), flag, pointing, facing, left_right, hue;
    strings, NaN where a label does not apply.
    Both are shared by every caller of `load_bank`: copy before you change anything.
    """

    images: torch.Tensor
    table: pd.DataFrame


def load_bank(vendors: Sequence[str] = VENDORS) -> Bank:
    """The images of `vendors` (in the order of VENDORS) with their labels; read and checked once a process.

    Raises InputError for an unknown vendor, for none, and for a file that is missing or differs from the manifest.
    """
    names = (vendors,) if isinstance(vendors, str) else tuple(vendors)
    if not names:
        raise refuse("vendors", vendors, f"one or more of {', '.join(VENDORS)}")
    for name in names:
        check_choice("vendors", name, VENDORS)
    folder = data_dir()
    return _bank(folder, fingerprint(), tuple(vendor for vendor in VENDORS if vendor in names))


def load_table() -> pd.DataFrame:
    """The table of the whole bank without its images, for callers that need labels alone; copy before you change it."""
    return _table(data_dir(), fingerprint())


def background_count() -> int:
    """How many patches `load_backgrounds` has, without reading them."""
    return int(_manifest(data_dir())["backgrounds"])


def load_backgrounds() -> torch.Tensor:
    """Blue Marble patches with land in them, uint8 (M, 3, 64, 64), RGB; their places are in `backgrounds.csv`.

    Shared by every caller: clone before you change it. Raises InputError for a missing or damaged file.
    """
    return _backgrounds(data_dir(), fingerprint())


def fingerprint() -> str:
    """The identity of the data: sha256 over the names and sha256 of the manifest's files, 64 hexadecimal digits."""
    files = _manifest(data_dir())["files"]
    return hashlib.sha256("".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files)).encode()).hexdigest()


def attributions() -> list[str]:
    """A line for each source of images: who made it, what was changed, licence."""
    files = _manifest(data_dir())["files"].values()
    return [f"{entry['attribution']} Licence: {entry['licence']}." for entry in files if "attribution" in entry]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in manifest["files"].values()):
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} is missing or damaged; {REBUILD}")


def _read(folder: Path, name: str) -> bytes:
    """A file of the bank; InputError where it is absent or not the one in the manifest."""
    path, entry = folder / name, _manifest(folder)["files"].get(name, {})
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {REBUILD}") from None
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise InputError(f"{path} is damaged: its sha256 is not the one in manifest.json; {REBUILD}")
    return content


def _sheet(folder: Path, name: str) -> torch.Tensor:
    """The images of one packed sheet, uint8 (N, C, 64, 64)."""
    content, manifest = _read(folder, name), _manifest(folder)
    size, columns = manifest["size"], manifest["sheet_columns"]
    sheet = np.asarray(Image.open(io.BytesIO(content)))
    tiles = sheet.reshape(-1, size, columns, size, sheet.shape[-1]).transpose(0, 2, 4, 1, 3)
    tiles = tiles.reshape(-1, *tiles.shape[2:])
    return torch.from_numpy(np.ascontiguousarray(tiles[: manifest["files"][name]["images"]]))


def _csv(folder: Path, name: str) -> pd.DataFrame:
    # The empty field alone means missing: pandas' own list has "NA" in it, which is the flag of Namibia.
    return pd.read_csv(io.BytesIO(_read(folder, name)), dtype=str, keep_default_na=False, na_values=[""])


# Keyed by the folder and what is in it, so that other data (MASTLIB_DATA, a rebuild) is never answered from memory.
@functools.lru_cache(maxsize=2)
def _table(folder: Path, identity: str) -> pd.DataFrame:
    rows = _csv(folder, "images.csv")
    table = rows[["vendor", "key"]].merge(_csv(folder, "labels.csv"), on="key", how="left", validate="many_to_one")
    return table.assign(hue=rows["hue"].to_numpy())


@functools.lru_cache(maxsize=4)
def _bank(folder: Path, identity: str, vendors: tuple[str, ...]) -> Bank:
    table = _table(folder, identity)
    mine = table[table["vendor"].isin(vendors)].reset_index(drop=True)
    return Bank(torch.cat([_sheet(folder, f"{vendor}.webp") for vendor in vendors]), mine)


@functools.lru_cache(maxsize=1)
def _backgrounds(folder: Path, identity: str) -> torch.Tensor:
    return _sheet(folder, "backgrounds.webp")
