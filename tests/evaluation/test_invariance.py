"""The measures against scipy, features whose invariance is known, and pictures that differ in one thing alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from torch import Tensor

from mastlib.augment.presets import get_pipeline
from mastlib.data import bank
from mastlib.data.splits import concept_split
from mastlib.errors import InputError
from mastlib.evaluation.features import extract
from mastlib.evaluation.invariance import (
    MEASURES,
    VARIATIONS,
    compare,
    drawings,
    headline,
    intrinsic,
    intrinsic_scenes,
    synthetic,
)
from mastlib.evaluation.subspaces import embeddings
from mastlib.evaluation.transforms import TRANSFORMS
from mastlib.evaluation.whitening import Whitening, whiten_subspaces
from mastlib.methods import build_method
from mastlib.models.backbones import build_backbone
from mastlib.spec import RunSpec

SIZE = 16


def images(n: int = 24, seed: int = 0, size: int = SIZE) -> Tensor:
    """Smooth colours, uint8."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(n, 3, 4, 4, generator=g), size=size, mode="bicubic")
    return (coarse.clamp(0, 1) * 255).round().to(torch.uint8)


def pixels(x: Tensor) -> Tensor:
    """Coarse pixels, `(n, 48)`: invariant to next to nothing."""
    return torch.nn.functional.avg_pool2d(x, SIZE // 4).flatten(1)


def mean_colour(x: Tensor) -> Tensor:
    return x.double().mean(dim=(2, 3))


def grey_pattern(x: Tensor) -> Tensor:
    """Relative luminance, since the grey weights sum to .9999 and greying twice darkens by as much."""
    luma = pixels((x.double() * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True))
    return luma / luma.mean(dim=1, keepdim=True)


def mirrored(x: Tensor) -> Tensor:
    return pixels(x) + pixels(x.flip(3))


def whitened(encode) -> Whitening:
    return Whitening.of(encode(images(400, seed=1).float() / 255), 0.01)


def values(table, measure: str, by: str = "transform") -> dict:
    return table[table["measure"] == measure].set_index(by)["value"].to_dict()


def test_measures_equal_scipys():
    g = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 30, 5, generator=g, dtype=torch.float64)
    found = compare(u, v, spread=3.0)
    pairs = list(zip(u.numpy(), v.numpy(), strict=True))
    np.testing.assert_allclose(found["cosine"], [1 - distance.cosine(a, b) for a, b in pairs], rtol=1e-12)
    np.testing.assert_allclose(found["distance"], [distance.euclidean(a, b) for a, b in pairs], rtol=1e-12)
    np.testing.assert_allclose(found["relative"], found["distance"] / np.sqrt(6), rtol=1e-12)


def test_equal_features_are_exactly_alike_and_one_at_the_mean_is_no_error():
    u = torch.rand(1000, 7, dtype=torch.float64) - 0.5
    u[0] = 0
    found = compare(u, u.clone(), 1.0)
    assert (found["cosine"] == 1).all() and (found["distance"] == 0).all()
    assert compare(u[:1], u[1:2], 1.0)["cosine"].item() == 0


def test_unrelated_images_are_a_relative_distance_of_one_apart_and_have_no_cosine():
    x = pixels(images(400, seed=1).float() / 255)
    whitening = Whitening.of(x, 0.1)
    u = whitening.apply(x)
    found = compare(u[:, None], u[None], whitening.spread)
    other = ~torch.eye(len(u), dtype=torch.bool)
    assert float(found["relative"].square()[other].mean()) == pytest.approx(1)  # exact: an identity of variances
    assert abs(float(found["cosine"][other].mean())) < 0.02


def test_the_identity_is_exactly_invariant_for_a_network():
    torch.manual_seed(0)
    backbone = build_backbone("resnet_small", 4, "patch")
    x = images(70, size=32)
    encode = lambda views: extract(backbone, views)  # noqa: E731
    table = synthetic(encode, Whitening.of(encode(x), 0.01), x, ["rotation", "h_flip", "blur", "sharpness"])
    same = table[table["identity"]]
    assert sorted(same["transform"].unique()) == ["blur", "h_flip", "rotation", "sharpness"]
    assert set(values(same, "cosine").values()) == {1.0}
    assert set(values(same, "distance").values()) == set(values(same, "relative").values()) == {0.0}
    changed = headline(table)
    assert (changed.loc[changed["measure"] == "cosine", "value"] < 0.9999).all()


def test_values_are_means_over_images_of_what_is_computed_by_hand():
    x = images(10)
    whitening = whitened(pixels)
    table = synthetic(pixels, whitening, x, ["invert", "scale"])
    covariance = np.cov(pixels(images(400, seed=1).float() / 255).double().numpy(), rowvar=False)
    inverse = np.linalg.inv(0.99 * covariance + 0.01 * np.trace(covariance) / 48 * np.eye(48))
    clean = pixels(x.float() / 255).double().numpy()
    for row in TRANSFORMS["scale"].grid(SIZE)[3], TRANSFORMS["invert"].grid(SIZE)[1]:
        name = "scale" if row[0] < 1 else "invert"
        other = pixels(TRANSFORMS[name](x, row)).double().numpy()
        at = table[(table["transform"] == name) & (table["parameters"] == row)].set_index("measure")
        expected = [distance.mahalanobis(a, b, inverse) for a, b in zip(clean, other, strict=True)]
        assert at.loc["distance", "value"] == pytest.approx(np.mean(expected), rel=1e-6)
        u, v = (whitening.apply(torch.tensor(f)).numpy() for f in (clean, other))
        expected = [1 - distance.cosine(a, b) for a, b in zip(u, v, strict=True)]
        assert at.loc["cosine", "value"] == pytest.approx(np.mean(expected), rel=1e-6)
        assert at.loc["cosine", "n"] == 10


def test_the_table_is_tidy_and_the_headline_leaves_out_what_changes_nothing():
    table = synthetic(pixels, whitened(pixels), images(5))
    assert list(table["transform"].unique()) == list(TRANSFORMS) and set(table["measure"]) == set(MEASURES)
    assert not table.isna().any().any() and (table["n"] == 5).all()
    found = headline(table)
    assert list(found.columns) == ["subspace", "group", "transform", "measure", "value", "n"]
    assert len(found) == len(TRANSFORMS) * len(MEASURES) and (found["n"] == 5).all()
    flip = table[(table["transform"] == "h_flip") & (table["measure"] == "cosine")]
    assert flip["value"].tolist() == [1.0, pytest.approx(values(found, "cosine")["h_flip"])]
    assert values(found, "cosine")["h_flip"] < 0.9
    shades = table[(table["transform"] == "posterize") & (table["measure"] == "distance")]
    assert values(found, "distance")["posterize"] == pytest.approx(shades["value"].mean()) and len(shades) == 7


def test_batches_do_not_change_what_is_found(monkeypatch):
    whole = synthetic(pixels, whitened(pixels), images(20), ["rotation", "equalize"])
    monkeypatch.setattr("mastlib.evaluation.invariance.BATCH", 7)
    parts = synthetic(pixels, whitened(pixels), images(20), ["rotation", "equalize"])
    np.testing.assert_allclose(parts["value"], whole["value"], atol=1e-6)


@pytest.mark.parametrize(
    ("encode", "invariant", "others"),
    [
        (mirrored, {"h_flip": 0.0}, ["v_flip", "rotation", "invert"]),
        (mean_colour, {"h_flip": 1e-12, "v_flip": 1e-12}, ["grayscale", "hue", "resized_crop"]),
        (grey_pattern, {"grayscale": 1e-4}, ["h_flip", "invert", "scale"]),
    ],
    ids=["mirrored", "mean colour", "grey"],
)
def test_features_that_are_invariant_by_construction_are_found_so(encode, invariant, others):
    table = headline(synthetic(encode, whitened(encode), images(), [*invariant, *others]))
    cosine, relative = values(table, "cosine"), values(table, "relative")
    for name, rounding in invariant.items():
        assert relative[name] <= rounding and cosine[name] >= 1 - rounding
        if rounding == 0:
            assert cosine[name] == 1
    for name in others:
        assert relative[name] > 0.05 and cosine[name] < 0.99


def test_mean_colours_do_not_turn_with_quarter_turns():
    table = synthetic(mean_colour, whitened(mean_colour), images(), ["rotation"])
    relative = {row[0]: v for row, v in values(table, "relative", by="parameters").items()}
    assert all(relative[quarter] < 1e-5 for quarter in (0.0, 90.0, 180.0, 270.0))
    assert all(v > 0.05 for angle, v in relative.items() if angle % 90)  # black corners come in


def test_a_subspace_has_the_invariance_of_its_own_dimensions():
    """Mean colour in dimensions 0 to 2, pixels in the others: the mask decides whether a flip is seen."""
    both = lambda x: torch.cat([mean_colour(x), pixels(x)[:, :24]], dim=1)  # noqa: E731
    masks = torch.zeros(2, 27)
    masks[0, :3] = masks[1, 3:] = 1
    spaces = whiten_subspaces(both(images(400, seed=1).float() / 255), masks, ["colour", "place"])
    table = headline(synthetic(both, spaces, images(), ["h_flip", "invert"]))
    relative = table[table["measure"] == "relative"].pivot(index="subspace", columns="transform", values="value")
    assert relative.loc["colour", "h_flip"] < 1e-6 < 0.3 < relative.loc["place", "h_flip"]
    assert relative.loc["full space", "h_flip"] > 0.1 and (relative["invert"] > 0.3).all()
    alone = headline(
        synthetic(lambda x: pixels(x)[:, :24], whitened(lambda x: pixels(x)[:, :24]), images(), ["h_flip"])
    )
    assert values(alone, "distance")["h_flip"] == pytest.approx(
        values(table[table["subspace"] == "place"], "distance")["h_flip"], rel=1e-5
    )


def test_masks_of_a_method_belong_to_its_embedding():
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 10), image_size=16, awareness="mast",
        augmentations="standard5", pairing="isolate_one", uncertainty="none", mask_type="blocks",
    )  # fmt: skip
    names = get_pipeline("standard5", 16).names
    torch.manual_seed(0)
    method = build_method(spec, names, 0).eval()
    encode = embeddings(method)
    clean = encode(images(100, seed=1).float() / 255)
    spaces = whiten_subspaces(clean, method.aware.masks(), names, 0.1)
    table = headline(synthetic(encode, spaces, images(8), ["grayscale"]))
    found = values(table, "distance", by="subspace")
    assert list(found) == [*names, "full space"]
    x, y = encode(images(8).float() / 255), encode(TRANSFORMS["grayscale"](images(8), (1.0,)))
    for k, name in enumerate(names):
        mine = Whitening.of(clean[:, 2 * k : 2 * k + 2], 0.1)
        u, v = mine.apply(x[:, 2 * k : 2 * k + 2]), mine.apply(y[:, 2 * k : 2 * k + 2])
        assert found[name] == pytest.approx(float((u - v).norm(dim=1).mean()), rel=1e-4)


def test_pairs_of_pictures_are_compared_off_the_diagonal():
    pictures = images(12).view(4, 3, 3, SIZE, SIZE)
    whitening = whitened(pixels)
    table = intrinsic(pixels, whitening, {"rotation": pictures, "mine": pictures[:, :2]})
    u = whitening.apply(pixels(images(12).float() / 255)).view(4, 3, -1).numpy()
    for measure, metric in (("cosine", distance.cosine), ("distance", distance.euclidean)):
        found = np.mean([[metric(o[i], o[j]) for i, j in combinations(range(3), 2)] for o in u])
        assert values(table, measure)["rotation"] == pytest.approx(1 - found if measure == "cosine" else found)
    assert (table["n"] == 4).all() and table["group"].unique().tolist() == ["viewpoint", ""]
    same = pictures[:, :1].expand(-1, 5, -1, -1, -1)
    assert values(intrinsic(pixels, whitening, {"blur": same}), "cosine") == {"blur": 1.0}


@pytest.fixture(scope="module")
def pictures() -> dict[str, Tensor]:
    return intrinsic_scenes(32, objects=6, views=4)


def test_pictures_of_an_object_differ_in_one_thing(pictures):
    assert list(pictures) == list(VARIATIONS)
    for name, found in pictures.items():
        views = 5 if name in ("vendor", "object") else 4
        assert found.shape == (6, views, 3, 32, 32) and found.dtype == torch.uint8
        assert all((found[:, i] != found[:, j]).flatten(1).any(dim=1).all() for i, j in combinations(range(views), 2))
        if name not in ("light_colour", "exposure", "blur", "scale"):  # where the background stays
            corners = found[..., :4, :4]
            assert (corners == corners[:, :1]).all(), name
    # Without blur, drawn by its own vendor, being itself: three times the same picture.
    assert torch.equal(pictures["object"][:, 0], pictures["blur"][:, 0])
    assert torch.equal(pictures["vendor"][torch.arange(6), torch.arange(6) % 5], pictures["blur"][:, 0])
    again = intrinsic_scenes(32, objects=6, views=4, variations=["blur"])
    assert list(again) == ["blur"] and torch.equal(again["blur"], pictures["blur"])


def test_latents_show_in_the_pictures_as_they_say(pictures):
    light = pictures["exposure"].float().mean(dim=(2, 3, 4))
    assert (light.diff(dim=1) > 0).all()
    detail = pictures["blur"].float().diff(dim=4).abs().mean(dim=(2, 3, 4))
    assert (detail.diff(dim=1) < 0).all()
    first = pictures["blur"][:, 0].float()
    plain = (first[..., 0] == first[..., :1, 0]).flatten(1).all(dim=1)  # without a gradient or photograph behind it
    assert plain.sum() > 1
    upright, turned = pictures["rotation"][plain][:, 2:].float().unbind(1)  # 0 and 90 degrees; the light does not turn
    wrong = (upright.rot90(-1, (2, 3)) - turned).abs().mean()
    assert (upright.rot90(1, (2, 3)) - turned).abs().mean() < 0.4 * wrong
    zoomed = pictures["scale"][plain].float()
    ink = (zoomed - zoomed[..., :1, :1]).abs().mean(dim=(2, 3, 4))
    assert (ink.diff(dim=1) > 0).all()
    placed = pictures["position"][plain].float()
    ink = (
        (placed - placed[..., :1, :1]).abs().sum(dim=2)
    )  # (objects, views, 32, 32): right, down, left, up of the middle
    assert (ink[:, 0].sum(dim=1) @ torch.arange(32.0) > ink[:, 2].sum(dim=1) @ torch.arange(32.0)).all()
    assert (ink[:, 1].sum(dim=2) @ torch.arange(32.0) > ink[:, 3].sum(dim=2) @ torch.arange(32.0)).all()


def test_objects_are_test_concepts_that_every_vendor_draws():
    table = bank.load_table()
    rows = drawings(table)
    assert rows.shape[1] == 5 and len(rows) > 200
    assert (concept_split(table["concept"].iloc[rows.ravel()]) == "test").all()
    by_row = [table["key"].to_numpy()[rows], table["concept"].to_numpy()[rows]]
    assert all((names == names[:, :1]).all() for names in by_row)
    assert len(set(by_row[1][:, 0])) == len(rows)
    assert (table["vendor"].to_numpy()[rows] == np.array(bank.VENDORS)).all()
    assert table["tone"].iloc[rows.ravel()].isna().all()


def test_what_cannot_be_measured_is_refused_in_one_line():
    whitening = whitened(pixels)
    for call in (
        lambda: synthetic(pixels, whitening, images(), ["solarize"]),
        lambda: synthetic(pixels, whitening, images(), values=3),
        lambda: synthetic(pixels, whitening, images()[:0]),
        lambda: synthetic(mean_colour, whitening, images(), ["invert"]),
        lambda: intrinsic(pixels, whitening, {"blur": images()}),
        lambda: intrinsic(pixels, whitening, {"blur": images()[:, None]}),
        lambda: intrinsic_scenes(16, views=1),
        lambda: intrinsic_scenes(16, objects=10_000),
        lambda: intrinsic_scenes(16, variations=["smell"]),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert "\n" not in str(refused.value)
