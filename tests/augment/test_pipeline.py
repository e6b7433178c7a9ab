from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mastlib.augment import ColorJitter, GaussianBlur, HorizontalFlip, Pipeline, Views, audit, get_pipeline, pipeline
from mastlib.errors import InputError

NAMES = ("crop", "flip", "color", "grayscale", "blur")
ALL = get_pipeline("standard5", 24)


def noise(n: int, height: int = 24, width: int = 24) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(9))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Views, b: Views) -> bool:
    return torch.equal(a.images, b.images) and all(torch.equal(a.params[k], b.params[k]) for k in a.params)


def one_by_one(image: Tensor, row: dict[str, Tensor]) -> Tensor:
    """crop, flip, color, grayscale, blur with torchvision; the crop in whole pixels."""
    height, width = image.shape[1:]
    y, x, h, w = row["crop"].tolist()
    box = [(y - h / 2) * height, (x - w / 2) * width, h * height, w * width]
    image = tv.resized_crop(image, *(round(side) for side in box), size=[24, 24], antialias=False)
    if row["flip"]:
        image = tv.horizontal_flip(image)
    *offsets, order = row["color"].tolist()
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for sub in list(permutations(range(4)))[int(order)]:
        image = adjust[sub](image, offsets[3] * 0.2 if sub == 3 else 1 + offsets[sub] * 0.8)
    if row["grayscale"]:
        image = tv.rgb_to_grayscale(image, 3)
    if row["blur"]:
        image = tv.gaussian_blur(image, [3, 3], [row["blur"].item()] * 2)
    return image


@pytest.mark.parametrize(("n", "height", "width"), [(40, 24, 24), (7, 31, 45), (1, 24, 24), (0, 24, 24)])
def test_composition_equals_torchvision_one_image_at_a_time(n: int, height: int, width: int) -> None:
    images = noise(n, height, width)
    params, _ = ALL.sample(n, seeded())
    frame = torch.tensor([height, width, height, width])
    y, x, h, w = (params["crop"] * frame).unbind(1)
    top, left, h, w = (y - h / 2).floor(), (x - w / 2).floor(), h.floor(), w.floor()
    params["crop"] = torch.stack([top + h / 2, left + w / 2, h, w], dim=1) / frame
    got = ALL.apply(images, params)
    assert got.shape == (n, 3, 24, 24)
    for i in range(n):
        expected = one_by_one(images[i], {k: v[i].squeeze() for k, v in params.items()})
        assert (got[i] - expected).abs().max() < 1e-3 < 1 / 255


def test_identity_returns_the_input_bit_for_bit() -> None:
    images = noise(6)
    identity = {op.name: op.identity.expand(6, -1) for op in ALL.ops}
    assert torch.equal(ALL.apply(images, identity), images)
    for op in ALL.ops:
        assert torch.equal(op.apply(images, identity[op.name]), images)


@pytest.mark.parametrize("name", NAMES)
def test_rows_at_the_identity_are_untouched_and_the_others_change(name: str) -> None:
    images, params = noise(8), {op.name: op.identity.repeat(8, 1) for op in ALL.ops}
    op = ALL.ops[NAMES.index(name)]
    params[name][1::2] = op.sample(4, seeded()) if name != "blur" else 0.5  # a small sigma can round to no change
    for got in (ALL.apply(images, params), op.apply(images, params[name])):
        assert torch.equal(got[::2], images[::2])
        assert (got[1::2] != images[1::2]).flatten(1).any(dim=1).all()


def test_uint8_is_divided_by_255_and_nothing_is_overwritten() -> None:
    whole = (noise(5) * 255).byte()
    before = whole.clone()
    params, _ = ALL.sample(5, seeded())
    assert torch.equal(ALL.apply(whole, params), ALL.apply(whole / 255, params))
    assert torch.equal(whole, before)
    for op in ALL.ops:
        images = noise(5)
        assert torch.equal(op.apply(whole, params[op.name]), op.apply(whole / 255, params[op.name]))
        op.apply(images, op.sample(5, seeded()))
        assert torch.equal(images, noise(5))


def test_views_tell_what_was_done() -> None:
    """Shapes, and the images follow from the parameters that come with them."""
    images = noise(10)
    for pairing in ("independent", "isolate_one"):
        views = ALL.views(images, pairing, seeded())
        assert views.images.shape == (2, 10, 3, 24, 24) and views.images.dtype == torch.float32
        assert views.images.min() >= 0 and views.images.max() <= 1
        assert tuple(views.params) == tuple(views.applied) == ALL.names == NAMES
        assert {k: v.shape[2] for k, v in views.params.items()} == dict(zip(NAMES, (4, 1, 5, 1, 1), strict=True))
        for v in range(2):
            expected = ALL.apply(images, {k: p[v] for k, p in views.params.items()})
            assert torch.allclose(views.images[v], expected, atol=1e-6)


@pytest.mark.parametrize("pairing", ["independent", "isolate_one"])
def test_same_seed_same_views(pairing: str) -> None:
    images = noise(10)
    assert same(ALL.views(images, pairing, seeded(3)), ALL.views(images, pairing, seeded(3)))
    assert not same(ALL.views(images, pairing, seeded(3)), ALL.views(images, pairing, seeded(4)))


def test_descriptors_hold_the_identity_exactly_where_not_applied() -> None:
    for pairing in ("independent", "isolate_one"):
        views = ALL.views(noise(500), pairing, seeded())
        for op in ALL.ops:
            at_identity = (views.params[op.name] == op.identity).all(dim=2)
            assert torch.equal(at_identity, ~views.applied[op.name])


def test_application_rates() -> None:
    n = 20_000
    _, applied = ALL.sample(n, seeded())
    for name, p in zip(NAMES, (1.0, 0.5, 0.8, 0.2, 0.5), strict=True):
        assert abs(applied[name].float().mean().item() - p) <= 5 * (p * (1 - p) / n) ** 0.5


def test_independent_draws_are_independent() -> None:
    """No augmentation's parameters are correlated with another's, nor with its own in the other view."""
    n = 20_000
    drawn = [ALL.sample(n, generator)[0] for generator in [seeded()] for _ in range(2)]
    names = [(view, name, i) for view in range(2) for name, p in drawn[0].items() for i in range(p.shape[1])]
    columns = torch.stack([drawn[view][name][:, i] for view, name, i in names]).double()
    correlation = torch.corrcoef(columns)
    for a, b in combinations(range(len(names)), 2):
        if names[a][:2] != names[b][:2]:  # entries of one draw share its on or off, its sides share the area
            assert abs(correlation[a, b]) < 5 / n**0.5, (names[a], names[b])


def test_independent_views_may_differ_in_everything() -> None:
    views = ALL.views(noise(300), generator=seeded())
    assert (views.changed == -1).all()
    assert audit(views)[:, 0].all() and audit(views).float().mean(0).min() > 0.2


@pytest.mark.parametrize("crop_redrawn", [1.0, 0.3, 0.0])
def test_isolate_one_changes_one_augmentation_and_the_crop_as_often_as_asked(crop_redrawn: float) -> None:
    views = ALL.views(noise(2000), "isolate_one", seeded(), crop_redrawn=crop_redrawn)
    expected, differs = torch.nn.functional.one_hot(views.changed, len(NAMES)).bool(), audit(views)
    assert torch.equal(differs[:, 1:], expected[:, 1:]) and (differs >= expected).all()
    besides = differs[views.changed > 0, 0].float().mean().item()
    assert besides == pytest.approx(crop_redrawn, abs=0.05 if 0 < crop_redrawn < 1 else 0)
    counts = views.changed.bincount(minlength=5)
    assert (counts - 400).abs().max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_isolate_one_forces_on_off_ops_into_the_other_state() -> None:
    views = ALL.views(noise(1000), "isolate_one", seeded())
    for name in ("flip", "grayscale"):
        mine = views.changed == NAMES.index(name)
        assert torch.equal(views.params[name][0, mine], 1 - views.params[name][1, mine])
        assert torch.equal(views.applied[name][0] ^ views.applied[name][1], mine)


def test_isolate_one_keeps_the_first_views_distribution() -> None:
    n = 2000
    views = ALL.views(torch.zeros(n, 3, 4, 4), "isolate_one", seeded())
    for op in ALL.ops:
        rate = views.applied[op.name][0].float().mean().item()
        assert abs(rate - op.p) <= 5 * (op.p * (1 - op.p) / n) ** 0.5


def test_composed_pairs_are_independent_ones() -> None:
    assert same(ALL.views(noise(50), "composed", seeded()), ALL.views(noise(50), "independent", seeded()))


def test_weights_say_how_often_an_augmentation_is_the_isolated_one() -> None:
    weights = {"crop": 3, "flip": 0.5, "blur": 0}
    for pairing, share in (("isolate_one", 1.0), ("mixed", 0.5)):
        changed = ALL.views(noise(4000, 4, 4), pairing, seeded(), weights=weights).changed
        alone = changed[changed >= 0]
        assert alone.numel() == pytest.approx(4000 * share, abs=200)
        got = alone.bincount(minlength=5) / alone.numel()
        assert torch.allclose(got, torch.tensor([3, 0.5, 1, 1, 0]) / 5.5, atol=0.04)
    never = Pipeline([HorizontalFlip(), GaussianBlur(p=0.0)])
    assert (never.views(noise(50), "isolate_one", seeded(), weights={"blur": 0}).changed == 0).all()


def test_views_are_written_where_asked() -> None:
    room = torch.full((2, 6, 3, 24, 24), 7.0)
    views = ALL.views(noise(6), generator=seeded(), out=room)
    assert views.images.data_ptr() == room.data_ptr()
    assert torch.equal(room, ALL.views(noise(6), generator=seeded()).images)


def test_views_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = ALL.views(noise(7), generator=seeded(), color_diff=True)
    for views in (1, 3):
        monkeypatch.setattr(pipeline, "CACHED_FLOATS", views * 3 * 24 * 24)
        in_pieces = ALL.views(noise(7), generator=seeded(), color_diff=True)
        assert torch.allclose(in_pieces.images, at_once.images, atol=1e-6)
        assert in_pieces.color_diff is not None and at_once.color_diff is not None
        assert torch.allclose(in_pieces.color_diff, at_once.color_diff, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_pairs_are_isolated_as_often_as_asked_and_else_ordinary(share: float) -> None:
    views = ALL.views(noise(2000), "mixed", seeded(), crop_redrawn=0.0, isolated=share)
    alone, differs = views.changed >= 0, audit(views)
    assert alone.float().mean().item() == pytest.approx(share, abs=0.04)
    assert (differs[alone].sum(dim=1) == 1).all()
    assert torch.equal(differs[alone].int().argmax(dim=1), views.changed[alone])
    if share < 1:
        expected = audit(ALL.views(noise(2000), "independent", seeded(1))).float().mean(0)
        assert torch.allclose(differs[~alone].float().mean(0), expected, atol=0.05)


@pytest.mark.parametrize("crop_redrawn", [0.0, 1.0])
def test_isolate_each_has_a_view_for_each_augmentation_that_differs_in_it_alone(crop_redrawn: float) -> None:
    views = ALL.views(noise(300), "isolate_each", seeded(), crop_redrawn=crop_redrawn)
    assert views.images.shape == (len(NAMES) + 1, 300, 3, 24, 24) and (views.changed == -1).all()
    for k in range(len(NAMES)):
        expected = torch.arange(len(NAMES)) == k
        expected[0] |= crop_redrawn == 1
        assert torch.equal(audit(views, 1 + k), expected.expand(300, -1))


def test_leave_one_out_keeps_one_augmentation_of_the_query_in_each_key() -> None:
    views = ALL.views(noise(1500), "leave_one_out", seeded())
    assert views.images.shape == (len(NAMES) + 2, 1500, 3, 24, 24) and (views.changed == -1).all()
    ordinary = audit(ALL.views(noise(1500), "independent", seeded(1))).float().mean(0)
    assert torch.allclose(audit(views).float().mean(0), ordinary, atol=0.05)  # k_0: everything anew
    for kept in range(len(NAMES)):
        expected = ordinary.clone()
        expected[kept] = 0
        assert torch.allclose(audit(views, 2 + kept).float().mean(0), expected, atol=0.05)
        assert not audit(views, 2 + kept)[:, kept].any()


def test_isolate_one_of_a_pipeline_without_crop_has_nothing_to_add() -> None:
    views = ALL.without("crop").views(noise(200), "isolate_one", seeded())
    assert torch.equal(audit(views), torch.nn.functional.one_hot(views.changed, 4).bool())


def test_without() -> None:
    assert ALL.without("color").names == ("crop", "flip", "grayscale", "blur")
    assert ALL.names == NAMES
    assert ALL.without("crop").views(noise(2, 10, 12)).images.shape == (2, 2, 3, 10, 12)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(3, 24, 24), r"\(3, 24, 24\)"),
        (torch.rand(2, 4, 24, 24), r"\(2, 4, 24, 24\)"),
        (torch.zeros(2, 3, 0, 24), r"\(2, 3, 0, 24\)"),
        (torch.zeros(2, 3, 24, 24, dtype=torch.int64), "int64"),
        (torch.full((2, 3, 24, 24), 1.5), "1.5"),
        (torch.full((2, 3, 24, 24), -0.5), "-0.5"),
        (torch.full((2, 3, 24, 24), float("nan")), "nan"),
        ([1, 2], "list"),
    ],
)
def test_bad_images_are_refused(images: Tensor, said: str) -> None:
    params, _ = ALL.sample(2)
    for attempt in (
        lambda: ALL.views(images),
        lambda: ALL.apply(images, params),
        lambda: HorizontalFlip().apply(images, params["flip"]),
    ):
        with pytest.raises(InputError, match=f"images = .*{said}") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_rounding_beyond_the_range_is_accepted() -> None:
    images = torch.ones(1, 3, 24, 24) + 1e-6
    assert ALL.views(images, generator=seeded()).images.max() <= 1 + 1e-5


def test_bad_calls_are_refused() -> None:
    params, _ = ALL.sample(2)
    attempts = {
        "ops": lambda: Pipeline([]),
        "different names": lambda: Pipeline([GaussianBlur(), GaussianBlur()]),
        "without": lambda: ALL.without("solarize"),
        "pairing": lambda: ALL.views(noise(2), "both"),
        "flip.p = 1.5": lambda: HorizontalFlip(p=1.5),
        "color.p": lambda: ColorJitter(0.4, 0.4, 0.4, 0.1, p=-1),
        "blur": lambda: ALL.apply(noise(2), {k: v for k, v in params.items() if k != "blur"}),
        r"\(3, 4\)": lambda: ALL.apply(noise(3), params),
        "isolated": lambda: ALL.views(noise(2), "mixed", isolated=1.5),
        r"name in weights = 'hue'": lambda: ALL.views(noise(2), "isolate_one", weights={"hue": 1}),
        r"weights\['crop'\] = -1": lambda: ALL.views(noise(2), "isolate_one", weights={"crop": -1}),
        "at least one above 0": lambda: ALL.views(noise(2), "isolate_one", weights=dict.fromkeys(NAMES, 0)),
        "params = .*every augmentation: crop": lambda: ALL.apply(noise(2), {"crops": torch.zeros(2, 4)}),
        "weights = .*independent": lambda: ALL.views(noise(2), weights={"crop": 2}),
        "out = ": lambda: ALL.views(noise(2), out=torch.zeros(2, 3, 3, 24, 24)),
        "contiguous": lambda: ALL.views(noise(2), out=torch.zeros(2, 2, 3, 24, 48)[..., ::2]),
        "one augmentation": lambda: Pipeline([HorizontalFlip(p=0.0)]).views(noise(2), "isolate_one"),
        "n = -1": lambda: ALL.sample(-1),
    }
    for said, attempt in attempts.items():
        with pytest.raises(InputError, match=said) as error:
            attempt()
        assert "\n" not in str(error.value)


def test_an_augmentation_that_is_never_applied_changes_nothing() -> None:
    views = Pipeline([HorizontalFlip(p=0.0)]).views(noise(3))
    assert torch.equal(views.images[0], noise(3)) and not views.applied["flip"].any()
