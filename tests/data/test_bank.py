"""The embedded bank: what the files promise, and what a damaged one says."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mastlib.data import bank
from mastlib.errors import InputError
from mastlib.files import data_dir


def manifest() -> dict:
    return json.loads((data_dir() / "manifest.json").read_text(encoding="utf-8"))


def linked_copy(target: Path) -> Path:
    """A data folder whose files are links to the real ones, so that one can be replaced."""
    for path in data_dir().iterdir():
        if path.suffix in (".webp", ".csv", ".json"):
            os.symlink(path, target / path.name)
    return target


def test_every_file_is_the_one_in_the_manifest():
    for name, entry in manifest()["files"].items():
        content = (data_dir() / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        assert len(content) == entry["bytes"], name
        if name.endswith(".webp"):
            assert (data_dir() / entry["licence_file"]).stat().st_size > 900
            assert entry["package"] and entry["version"] and entry["attribution"]
    assert {p.name for p in data_dir().glob("*.webp")} | {p.name for p in data_dir().glob("*.csv")} == set(
        manifest()["files"]
    )


def test_the_folder_is_small_enough_to_be_cloned():
    assert sum(p.stat().st_size for p in data_dir().rglob("*") if p.is_file() and "__pycache__" not in p.parts) < 32e6


def test_counts():
    table = bank.load_bank().table
    counts = table["vendor"].value_counts()
    assert {vendor: (low <= counts[vendor] <= low + 400) for vendor, low in
            [("twemoji", 3700), ("openmoji", 3500), ("noto", 3500), ("fluent-flat", 3000), ("fluent-3d", 3200)]} == dict.fromkeys(
        bank.VENDORS, True
    )  # fmt: skip
    assert 17_000 < len(table) == len(bank.load_bank().images) == manifest()["images"] < 19_000
    assert 3_600 < table["key"].nunique() == manifest()["keys"] < 4_200
    assert not table.duplicated(["vendor", "key"]).any()


def test_columns_and_missing_values():
    table = bank.load_bank().table
    expected = "vendor key concept name category subcategory tone flag pointing facing left_right hue"
    assert list(table.columns) == expected.split()
    assert table[["vendor", "key", "concept", "name"]].notna().all(axis=None)
    assert "NA" in set(table["flag"])  # Namibia, not a missing value
    assert not any("gender" in column or "sex" in column for column in table.columns)
    assert table.index.equals(table.reset_index().index)


@pytest.mark.parametrize("vendor", bank.VENDORS)
def test_objects_fill_the_square_and_are_centred(vendor):
    images = bank.load_bank([vendor]).images
    assert images.shape[1:] == (4, 64, 64) and images.dtype == torch.uint8
    opaque = images[:, 3] > 0
    extents = []
    for lines in (opaque.any(2), opaque.any(1)):  # rows, columns with something in them
        first, last = lines.int().argmax(1), 63 - lines.flip(1).int().argmax(1)
        assert ((first - (63 - last)).abs() <= 2).all()  # the same margin on both sides, up to rounding
        extents.append(last - first + 1)
    assert (torch.maximum(*extents) == 64).all()
    assert not (images[:, :3] * ~opaque.unsqueeze(1)).any()


@pytest.mark.parametrize("vendor", bank.VENDORS)
def test_no_image_twice_none_faint_and_the_pixels_are_those_that_were_packed(vendor):
    pixels = bank.load_bank([vendor]).images.permute(0, 2, 3, 1).contiguous().numpy()
    assert len({hashlib.sha256(image.tobytes()).digest() for image in pixels}) == len(pixels)
    assert (pixels[..., 3].max((1, 2)) > 128).all()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == manifest()["files"][f"{vendor}.webp"]["pixels_sha256"]


def test_a_selection_is_the_same_rows_in_the_order_of_vendors():
    whole, part = bank.load_bank(), bank.load_bank(["noto", "openmoji"])
    rows = np.flatnonzero(whole.table["vendor"].isin(["openmoji", "noto"]))
    assert torch.equal(part.images, whole.images[rows])
    assert part.table.equals(whole.table.iloc[rows].reset_index(drop=True))
    assert bank.load_bank("noto").table["vendor"].unique().tolist() == ["noto"]
    assert bank.load_bank() is whole  # read once


def test_backgrounds():
    patches = bank.load_backgrounds()
    places = np.genfromtxt(data_dir() / "backgrounds.csv", delimiter=",", names=True)
    assert patches.shape == (len(places), 3, 64, 64) and patches.dtype == torch.uint8 and len(places) > 1000
    assert (np.abs(places["latitude"]) < 72).all() and (places["land"] >= 0.05).all()
    spot = np.hypot(places["latitude"] - 22.5, places["longitude"] - 10).argmin()  # the Sahara: red over blue
    assert patches[spot, 0].float().mean() > patches[spot, 2].float().mean() + 40
    spot = np.hypot(places["latitude"] + 5, places["longitude"] + 63).argmin()  # the Amazon: green over red and blue
    assert patches[spot, 1].float().mean() > patches[spot, [0, 2]].float().mean(dim=(1, 2)).max() + 5
    assert len({patch.numpy().tobytes() for patch in patches}) == len(patches)


def test_fingerprint_follows_the_data(tmp_path, monkeypatch):
    before = bank.fingerprint()
    assert len(before) == 64 and bank.fingerprint() == before
    linked_copy(tmp_path)
    changed = manifest()
    changed["files"]["labels.csv"]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")
    monkeypatch.setenv("MASTLIB_DATA", str(tmp_path))
    assert bank.fingerprint() != before


@pytest.mark.parametrize("name", ["noto.webp", "labels.csv", "images.csv", "backgrounds.webp"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, name, damage):
    path = linked_copy(tmp_path) / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    monkeypatch.setenv("MASTLIB_DATA", str(tmp_path))
    with pytest.raises(InputError, match=name) as caught:
        bank.load_backgrounds() if name == "backgrounds.webp" else bank.load_bank(["noto"])
    assert "python data/build.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"noto.webp": {}}}', '{"files": 3}'])
def test_a_damaged_manifest_is_named(tmp_path, monkeypatch, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv("MASTLIB_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"manifest\.json"):
        bank.load_bank()


@pytest.mark.parametrize("vendors", [["apple"], "apple", [], ["noto", None], ["../noto"]])
def test_an_unknown_vendor_is_refused(vendors):
    with pytest.raises(InputError, match="vendors") as caught:
        bank.load_bank(vendors)
    assert "twemoji" in str(caught.value)
