"""Labels against Unicode's own names and against the pixels."""

from __future__ import annotations

import re
import unicodedata

import pandas as pd
import pytest
import torch

from mastlib.data.bank import VENDORS, Bank, load_bank

TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")


def bare(key: str) -> str:
    return "-".join(point for point in key.split("-") if point not in TONES)


@pytest.fixture(scope="module")
def loaded() -> Bank:
    return load_bank()


@pytest.fixture(scope="module")
def labels(loaded) -> pd.DataFrame:
    return loaded.table.drop_duplicates("key").set_index("key", drop=False)


def pixels(loaded: Bank, vendor: str) -> dict[str, torch.Tensor]:
    """Premultiplied RGB, float (3, 64, 64), by key."""
    rows = loaded.table.index[loaded.table["vendor"] == vendor]
    images = loaded.images[torch.tensor(rows.to_numpy())].float()
    return dict(zip(loaded.table.loc[rows, "key"], images[:, :3] * images[:, 3:] / 255, strict=True))


def test_keys_are_emoji_and_never_private_or_components(labels):
    for key in labels["key"]:
        text = "".join(chr(int(point, 16)) for point in key.split("-"))
        assert key == key.upper() and "FE0F" not in key.split("-")
        assert not any(unicodedata.category(character) == "Co" for character in text), key
    components = {*TONES, "1F9B0", "1F9B1", "1F9B2", "1F9B3", *(f"{point:X}" for point in range(0x1F1E6, 0x1F200))}
    assert not components & set(labels["key"])


def test_names_are_those_of_unicode(labels):
    emoji = pytest.importorskip("emoji")
    names = {
        "-".join(f"{ord(c):04X}" for c in text if ord(c) != 0xFE0F): entry["en"].strip(":").replace("_", " ")
        for text, entry in emoji.EMOJI_DATA.items()
    }
    assert labels["name"].to_dict() == {key: names[key] for key in labels["key"]}


def test_a_concept_holds_all_variants_of_a_thing(labels):
    concept = labels["concept"]
    assert labels.groupby(labels["key"].map(bare))["concept"].nunique().max() == 1
    for variants in (
        ["1F44D", "1F44D-1F3FB", "1F44D-1F3FF"],
        ["1F468-200D-1F680", "1F469-1F3FD-200D-1F680", "1F9D1-1F3FF-200D-1F680"],  # astronaut
        ["1F3C3", "1F3C3-200D-2640", "1F3C3-1F3FB-200D-27A1", "1F3C3-1F3FD-200D-2642-200D-27A1"],  # running
        ["1F46B", "1F46C-1F3FB", "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF"],  # holding hands
        ["1F468", "1F469", "1F9D1-1F3FE"],
    ):
        assert concept[variants].nunique() == 1, variants
    for different in (
        ["1F44D", "1F44E"],
        ["1F448", "1F449"],
        ["1F1F3-1F1F4", "1F1F8-1F1EA"],
        ["1F9D1", "1F9D1-200D-1F680"],
    ):
        assert concept[different].nunique() == 2, different
    assert labels.groupby("concept")["category"].nunique().max() == 1
    assert labels["concept"].nunique() > 1_600


def test_tone_is_the_single_modifier_of_a_person_or_body_part(labels):
    for key, tone, category in zip(labels["key"], labels["tone"], labels["category"], strict=True):
        modifiers = [point for point in key.split("-") if point in TONES]
        if pd.notna(tone):
            assert len(modifiers) == 1 and category == "People & Body"
            assert tone == str(TONES.index(modifiers[0]) + 1)
    assert labels["tone"].value_counts().min() > 300
    assert labels["tone"].value_counts().max() < labels["tone"].value_counts().min() * 1.05


@pytest.mark.parametrize("vendor", VENDORS)
def test_darker_tones_are_drawn_darker(loaded, vendor):
    light = {key: float(image.mean()) for key, image in pixels(loaded, vendor).items()}
    bases = [key for key in loaded.table.loc[loaded.table["tone"] == "2", "key"].unique() if key in light]
    ordered = []
    for key in bases:
        first, third, fourth, fifth = (
            light.get(key.replace("1F3FC", tone), torch.nan) for tone in (TONES[0], *TONES[2:])
        )
        # Tone 2, with its blond hair, is brighter than 3 in every drawing; tone 1 has darker hair and may be near 3.
        assert not light[key] <= third, key
        ordered.append(min(first, third) > fourth > fifth)
    assert len(ordered) > 200
    assert sum(ordered) / len(ordered) > 0.97  # water in a bath, a boat's shade


def test_directions_are_those_of_the_unicode_names(labels):
    def said(key: str) -> str:
        point = bare(key)
        name = unicodedata.name(chr(int(point, 16)), None) or labels.loc[point, "name"].upper()
        name = re.sub(r"\b(NORTH|SOUTH) WEST\b", "LEFT", name)
        name = re.sub(r"\b(NORTH|SOUTH) EAST\b", "RIGHT", name)
        return re.findall("UP|DOWN|LEFT|RIGHT", name)[-1].lower()  # "pointing rightwards then curving upwards": up

    for column in ("pointing", "left_right"):
        shown = labels[column].dropna()
        assert len(shown) > 60
        assert shown.to_dict() == {key: said(key) for key in shown.index}
    both = labels.dropna(subset=["pointing", "left_right"])
    assert (both["pointing"] == both["left_right"]).all()
    assert labels["left_right"].value_counts().nunique() == 1  # pairs


@pytest.mark.parametrize("vendor", ["twemoji", "openmoji", "noto", "fluent-flat"])
def test_facing_pairs_are_mirror_images(loaded, vendor):
    images = pixels(loaded, vendor)
    rows = loaded.table[(loaded.table["vendor"] == vendor) & (loaded.table["facing"] == "right")]["key"]
    assert len(rows) > 60
    near = [
        (images[key] - images[twin].flip(-1)).abs().mean() < (images[key] - images[twin]).abs().mean()
        for key, twin in ((key, key.removesuffix("-200D-27A1")) for key in rows)
        if twin in images
    ]
    assert len(near) > 40 and sum(near) == len(near)


@pytest.mark.parametrize("vendor", VENDORS)
def test_hands_of_a_pair_are_mirror_images(loaded, vendor):
    images = pixels(loaded, vendor)
    for left, right in [
        ("1F448", "1F449"),
        ("1FAF2", "1FAF1"),
        ("1F91B", "1F91C"),
        ("1FAF7", "1FAF8"),
    ]:
        mirrored, same = ((images[right] - image).abs().mean() for image in (images[left].flip(-1), images[left]))
        assert mirrored < same, (left, right)


@pytest.mark.parametrize("vendor", VENDORS)
def test_hands_point_where_they_are_said_to(loaded, vendor):
    """A pointing finger is narrow: the end it is at has less of the outline than the other end."""
    rows = loaded.table[
        (loaded.table["vendor"] == vendor) & loaded.table["key"].map(bare).isin(["1F446", "1F447", "1F448", "1F449"])
    ]
    assert len(rows) == 24
    for index, direction in rows["pointing"].items():
        solid = (loaded.images[index, 3] > 128).float()
        ends = {
            "up": solid[:12].sum(), "down": solid[-12:].sum(), "left": solid[:, :12].sum(), "right": solid[:, -12:].sum(),
        }  # fmt: skip
        opposite = {"up": "down", "down": "up", "left": "right", "right": "left"}[direction]
        assert ends[direction] < ends[opposite]


def test_flags(labels):
    flags = labels["flag"].dropna()
    assert labels.loc[flags.index, "category"].eq("Flags").all() and flags.nunique() > 240
    named = labels.loc[flags.index].set_index("name")["flag"]
    for name, code in {"Japan": "JP", "Brazil": "BR", "England": "GBENG", "Namibia": "NA", "Norway": "NO"}.items():
        assert named[name] == code
    assert labels.loc["1F3F3-200D-1F308", "flag"] is not flags.iloc[0] and pd.isna(
        labels.loc["1F3F3-200D-1F308", "flag"]
    )
    assert named["Bouvet Island"] == "NO" and named["Chad"] == named["Romania"] == "RO"
    assert labels.loc[flags.index].groupby("flag")["concept"].nunique().max() == 1
    assert labels.loc[flags.index].groupby("concept")["flag"].nunique().max() == 1


@pytest.mark.parametrize("vendor", ["twemoji", "openmoji", "fluent-3d"])
def test_no_two_differently_labelled_flags_are_the_same_drawing(loaded, vendor):
    rows = loaded.table[(loaded.table["vendor"] == vendor) & loaded.table["flag"].notna()]
    images = pixels(loaded, vendor)
    small = torch.stack([images[key][:, ::4, ::2] for key in rows["key"]]).flatten(1)
    distance = torch.cdist(small, small, p=1) / small.shape[1]
    codes = rows["flag"].to_numpy()
    different = torch.from_numpy(codes[:, None] != codes[None])
    assert len(rows) > 230 and distance[different].min() > 0.5


def test_hue_of_known_things(loaded):
    shown = loaded.table.groupby("key")["hue"]
    squares = {"1F7E5": "red", "1F7E7": "orange", "1F7E9": "green", "1F7E6": "blue", "1F7EA": "purple"}
    hearts = {"2764": "red", "1F9E1": "orange", "1F49A": "green", "1F499": "blue", "1F49C": "purple"}
    for key, hue in {**squares, **hearts, "2B1B": "grey", "26AB": "grey"}.items():
        assert shown.get_group(key).tolist() == [hue] * len(shown.get_group(key)), key
    counts = loaded.table["hue"].value_counts()
    assert len(counts) == 9 and counts.min() > 50 and counts.sum() > 0.7 * len(loaded.table)
