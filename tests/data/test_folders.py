"""What is in a folder of images does not depend on the file system, and a file's pixels are those that other programs see."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from mastlib.data.folders import Decoder, decode, scan
from mastlib.errors import InputError

SIZE = 16


def smooth(seed, width, height, channels=3):
    """A picture of a few soft blobs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def touched(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return root


def test_images_are_found_by_suffix_in_an_order_of_their_own(tmp_path):
    names = ["b/2.PNG", "a.webp", "b/10.jpg", "B/x.Jpeg", "b/é.gif", "c/d/e.tiff", "Ä.bmp"]
    rest = ["b/notes.txt", ".hidden.png", ".git/x.png", "b/png", "c/d/.e.jpg"]
    one = scan(str(touched(tmp_path / "one", *names, *rest)))
    other = scan(str(touched(tmp_path / "other", *reversed(names))))
    assert one.names == other.names == tuple(sorted(names, key=os.fsencode))
    assert one.fingerprint == other.fingerprint and len(one.fingerprint) == 64
    assert one.root == tmp_path / "one"


def test_a_relative_path_and_one_of_the_home_are_found(tmp_path, monkeypatch):
    touched(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert scan(tmp_path.name).root == scan(f"~/{tmp_path.name}").root == tmp_path


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "longer"])
def test_another_file_is_another_fingerprint(change, tmp_path):
    root = touched(tmp_path, "a.png", "b.png")
    before = scan(str(root)).fingerprint
    match change:
        case "added":
            touched(root, "c.png")
        case "removed":
            (root / "a.png").unlink()
        case "renamed":
            (root / "a.png").rename(root / "0.png")
        case "longer":
            (root / "a.png").write_bytes(b"longer than it was")
    assert scan(str(root)).fingerprint != before


def test_sub_folders_are_classes_where_all_images_lie_in_some(tmp_path):
    found = scan(str(touched(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/2.png", "empty/notes.txt")))
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1] and found.labels.dtype == np.int64
    touched(tmp_path, "loose.png")
    found = scan(str(tmp_path))
    assert found.classes == () and found.labels.tolist() == [-1] * 4


def test_one_sub_folder_is_no_class(tmp_path):
    assert scan(str(touched(tmp_path, "images/1.png", "images/2.png"))).classes == ()


def test_links_to_files_count_and_links_to_folders_do_not(tmp_path):
    touched(tmp_path / "far", "1.png", "2.png")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link.png").symlink_to(tmp_path / "far" / "1.png")
    (tmp_path / "near" / "folder").symlink_to(tmp_path / "far")
    os.mkfifo(tmp_path / "near" / "pipe.png")
    assert scan(str(tmp_path / "near")).names == ("link.png",)
    (tmp_path / "near" / "broken.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"broken\.png' cannot be read \(No such file"):
        scan(str(tmp_path / "near"))


def test_a_folder_that_is_missing_empty_or_a_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, reason in (("none", "No such file"), ("empty", "there are none"), ("file", "Not a directory")):
        with pytest.raises(InputError) as refusal:
            scan(str(tmp_path / name))
        said = str(refusal.value)
        assert said.startswith(f"data = {str(tmp_path / name)!r} cannot be used; accepted: openemoji, or a folder")
        assert reason in said and "\n" not in said


def expected(image, size=SIZE):
    """Pixels of an upright RGB image by torchvision."""
    small = functional.resize(image, [size], v2.InterpolationMode.BICUBIC, antialias=True)
    return functional.pil_to_tensor(functional.center_crop(small, [size, size]))


def difference(a, b):
    return int((a.int() - b.int()).abs().max())


# Sizes whose ratio to SIZE is whole, so that resizing all and cropping has the same pixels; each is made from smooth RGB pixels.
@pytest.mark.parametrize(("width", "height"), [(16, 16), (48, 32), (32, 48), (160, 32), (8, 8), (12, 8)])
def test_pixels_are_those_of_the_shorter_side_resized_and_the_middle_cropped(width, height, tmp_path):
    image = Image.fromarray(smooth(0, width, height))
    image.save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", SIZE)
    assert found.shape == (3, SIZE, SIZE) and found.dtype == torch.uint8 and found.is_contiguous()
    assert torch.equal(found, expected(image))


def test_sizes_without_a_whole_ratio_are_resized_alike_in_both_directions(tmp_path):
    image = Image.fromarray(smooth(1, 75, 53))
    image.save(tmp_path / "a.png")
    assert difference(decode(tmp_path / "a.png", SIZE), expected(image)) <= 12  # a part of a pixel beside it


def test_an_extreme_strip_takes_no_memory_and_a_single_pixel_is_an_image(tmp_path):
    strip = np.zeros((1, 30_000, 3), np.uint8)
    strip[:, 14_990:15_010] = 200
    Image.fromarray(strip).save(tmp_path / "strip.png")
    assert (decode(tmp_path / "strip.png", 512) == 200).all()
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "dot.png")
    assert (decode(tmp_path / "dot.png", SIZE) == torch.tensor([9, 8, 7])[:, None, None]).all()


RGB = smooth(2, 48, 32)
ALPHA = smooth(3, 48, 32, 1)[..., 0]
ON_WHITE = (RGB * (ALPHA[..., None] / 255) + 255 * (1 - ALPHA[..., None] / 255)).round().astype(np.uint8)
GREY = smooth(4, 48, 32, 1)[..., 0]


def with_alpha():
    return Image.fromarray(np.dstack([RGB, ALPHA]))


def grey_with_alpha():
    return Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])


def palette(transparent=None):
    """Four colours in quarters; one of them transparent."""
    image = Image.fromarray(np.kron([[0, 1], [2, 3]], np.ones((16, 24))).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 40, 50, 60])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def quarters(*colours):
    return np.kron(np.array([[0, 1], [2, 3]]), np.ones((16, 24), int))[..., None].repeat(3, -1).choose(
        [np.array(c).reshape(1, 1, 3) for c in colours]
    ).astype(np.uint8)  # fmt: skip


FOUR = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (40, 50, 60)]
WHITE = (255, 255, 255)
ON_WHITE_GREY = (GREY * (ALPHA / 255) + 255 * (1 - ALPHA / 255)).round().astype(np.uint8)
DEEP = (GREY.astype(np.uint16) << 8) | smooth(5, 48, 32, 1)[..., 0]
KINDS = {
    "grey": (".png", Image.fromarray(GREY), {}, GREY[..., None].repeat(3, -1), 0),
    "bits": (".png", Image.fromarray(GREY > 127), {}, ((GREY > 127) * 255).astype(np.uint8)[..., None].repeat(3, -1), 0),
    "alpha": (".png", with_alpha(), {}, ON_WHITE, 1),
    "alpha webp": (".webp", with_alpha(), {"lossless": True, "exact": True}, ON_WHITE, 1),
    "grey alpha": (".png", grey_with_alpha(), {}, ON_WHITE_GREY[..., None].repeat(3, -1), 1),
    "palette": (".png", palette(), {}, quarters(*FOUR), 0),
    "palette gif": (".gif", palette(), {}, quarters(*FOUR), 0),
    "transparent palette": (".png", palette(2), {}, quarters(*FOUR[:2], WHITE, FOUR[3]), 0),
    "transparent gif": (".gif", palette(1), {"transparency": 1}, quarters(FOUR[0], WHITE, *FOUR[2:]), 0),
    "cmyk": (".tif", Image.fromarray(np.dstack([255 - RGB, 0 * GREY]), "CMYK"), {}, RGB, 1),
    "16 bits png": (".png", Image.fromarray(DEEP), {}, np.round(DEEP / 257).astype(np.uint8)[..., None].repeat(3, -1), 0),
    "16 bits tiff": (".tiff", Image.fromarray(DEEP), {}, np.round(DEEP / 257).astype(np.uint8)[..., None].repeat(3, -1), 0),
    "16 bits pgm": (".pgm", Image.fromarray(DEEP), {}, np.round(DEEP / 257).astype(np.uint8)[..., None].repeat(3, -1), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pixels_becomes_rgb_on_white(kind, tmp_path):
    suffix, image, options, rgb, off = KINDS[kind]
    image.save(tmp_path / f"a{suffix}", **options)
    assert difference(decode(tmp_path / f"a{suffix}", SIZE), expected(Image.fromarray(rgb))) <= off


def test_cmyk_jpegs_are_right_side_out(tmp_path):
    Image.fromarray(np.dstack([255 - RGB, 0 * GREY]), "CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert difference(decode(tmp_path / "a.jpg", SIZE), expected(Image.fromarray(RGB))) <= 6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation, suffix, tmp_path):
    upright = np.ascontiguousarray(smooth(6, 48, 32))
    # What a camera stores, by EXIF 2.32, 4.6.4 A: where row 0 and column 0 of the file are in the picture.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif, **options)
    assert torch.equal(decode(tmp_path / f"a{suffix}", SIZE), expected(Image.fromarray(upright)))


def test_damaged_exif_data_are_no_reason_to_refuse_pixels(tmp_path):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert torch.equal(decode(tmp_path / "a.png", SIZE), expected(image))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_is_taken(suffix, tmp_path):
    first, *rest = (Image.new("RGB", (SIZE, SIZE), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=rest, **options)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.n_frames == 3
    assert (decode(tmp_path / f"a{suffix}", SIZE) == torch.tensor([255, 0, 0])[:, None, None]).all()


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path, monkeypatch):
    image = Image.fromarray(smooth(7, 960, 480))
    image.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as whole:
        peer = expected(whole.convert("RGB"))
    sizes, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: sizes.append(image.size) or load(image))
    found = decode(tmp_path / "a.jpg", SIZE)
    assert sizes[0] == (120, 60), "an eighth, and no less than twice what is asked"
    assert difference(found, peer) <= 3


def test_a_very_large_image_is_no_error_even_where_warnings_are(tmp_path, monkeypatch):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decode(tmp_path / "a.png", SIZE), expected(image))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match=r"a\.png' cannot be decoded \(DecompressionBombError"):
        decode(tmp_path / "a.png", SIZE)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "folder"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_what_cannot_be_decoded_is_named_in_a_line(damage, suffix, tmp_path):
    path = tmp_path / f"a\n{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.touch()
        case "text":
            path.write_text("no picture")
        case "folder":
            path.mkdir()
    with pytest.raises(InputError) as refusal:
        decode(path, SIZE)
    said = str(refusal.value)
    assert "\n" not in said and said.startswith(f"data: {str(path)!r} cannot be decoded (") and len(said) < 400


def test_fractions_are_refused_for_nobody_says_what_white_is(tmp_path):
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="fractions"):
        decode(tmp_path / "a.tif", SIZE)


def test_a_decoder_returns_the_first_error_and_raises_none(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    touched(tmp_path, "b.png", "c.png")
    decoder = Decoder(tmp_path, SIZE)
    images = decoder.__getitems__(["a.png", "a.png"])
    assert images.shape == (2, 3, SIZE, SIZE) and torch.equal(images[1], decoder["a.png"])
    error = decoder.__getitems__(["a.png", "b.png", "c.png"])
    assert isinstance(error, InputError) and "b.png" in str(error)
