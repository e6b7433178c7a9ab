"""Sensitivity by layer: closed forms, planted networks that are invariant, and planted projectors that read or do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from mastlib.augment import ColorJitter, GaussianBlur
from mastlib.augment.presets import standard5
from mastlib.errors import InputError
from mastlib.evaluation import layers
from mastlib.evaluation.layers import METRICS, at_strength, contrast, layer_sensitivity
from mastlib.methods.base import Method
from mastlib.runs import Run
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 10), image_size=16, images=64, batch_size=32, epochs=1,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, augmentations="standard5", host="simclr",
)  # fmt: skip
ALL_KEYS = ("blur", "color", "color_diff", "crop", "flip", "grayscale")
DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(40, 3, 16, 16, generator=DRAW) ** torch.rand(40, 3, 1, 1, generator=DRAW).mul(3)
STAGES = ["input", "stem", "stage1", "stage2", "stage3", "backbone"]


@pytest.fixture(scope="module")
def plain() -> Run:
    return fit(TINY, progress=False)


@pytest.fixture(scope="module")
def told() -> Run:
    return fit(TINY.replace(awareness="cassle", condition_on=ALL_KEYS), progress=False)


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Method], None]) -> list[Method]:
    """Let `change` alter the networks that are read; they are listed as they are made."""
    made, found = layers.trained_method, []

    def changed(run: Run, classes: int) -> Method:
        found.append(made(run, classes))
        change(found[-1])
        return found[-1]

    monkeypatch.setattr(layers, "trained_method", changed)
    return found


def wide(table: pd.DataFrame) -> pd.DataFrame:
    return table.pivot(index=["augmentation", "strength", "layer", "told"], columns="metric", values="value")


def test_contrast_of_distinct_and_of_equal_images_is_known():
    n = 6
    distinct = dict(zip(METRICS, contrast(torch.eye(n)).tolist(), strict=True))
    assert distinct == pytest.approx(
        {"infonce": 0.4 * math.log(1 + (n - 1) * math.exp(-5)), "positive": 1, "negative": 0, "difference": 1}
    )
    alike = dict(zip(METRICS, contrast(torch.ones(n, n)).tolist(), strict=True))
    assert alike == pytest.approx({"infonce": 0.4 * math.log(n), "positive": 1, "negative": 1, "difference": 0})


def test_contrast_is_two_temperatures_times_other_peoples_loss():
    u, v = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(1)).double()
    infonce, positive, negative, difference = contrast(normalize(u) @ normalize(v).T)
    own = torch.arange(12)
    theirs = NTXentLoss(temperature=0.2)(u, own, ref_emb=v, ref_labels=own.clone())  # the same labels would be u's own
    torch.testing.assert_close(infonce, 0.4 * theirs)
    torch.testing.assert_close(positive, cosine_similarity(u, v).mean())
    apart = torch.stack([cosine_similarity(u, v.roll(shift, 0)).mean() for shift in range(1, 12)])
    torch.testing.assert_close(negative, apart.mean())  # these derangements have each pair once
    assert difference == positive - negative


def test_a_strength_is_that_of_an_augmentation_with_wider_ranges():
    images = IMAGES[:8]
    ops = {op.name: op for op in standard5(96)}
    for strength in (0.25, 2.0):
        wider = ColorJitter(0.4 * strength, 0.4 * strength, 0.4 * strength, 0.1 * strength)
        drawn = ops["color"].sample(8, torch.Generator().manual_seed(2))
        made = ops["color"].apply(images, at_strength("color", drawn, strength))
        torch.testing.assert_close(made, wider.apply(images, drawn))
        sigma = at_strength("blur", ops["blur"].sample(50, torch.Generator().manual_seed(2)), strength)
        wanted = GaussianBlur((0.1 * strength, 2 * strength)).sample(50, torch.Generator().manual_seed(2))
        torch.testing.assert_close(sigma, wanted)
    for name in ("crop", "flip", "grayscale"):
        drawn = ops[name].sample(8, torch.Generator().manual_seed(2))
        assert at_strength(name, drawn, 2.0).equal(drawn)


def test_pixels_by_hand_and_the_shape_of_the_table(plain):
    table = layer_sensitivity(plain, IMAGES, ["flip", "blur"], [0.5, 1.0], batch=40)
    assert list(table.columns) == ["layer", "augmentation", "strength", "told", "metric", "value", "n"]
    cases = [("none", 0.0), ("flip", 1.0), ("blur", 0.5), ("blur", 1.0)]
    assert list(dict.fromkeys(zip(table["augmentation"], table["strength"], strict=True))) == cases
    assert not table.duplicated(["layer", "augmentation", "strength", "told", "metric"]).any()
    assert list(dict.fromkeys(table["layer"])) == [*STAGES, "projector"]
    assert set(table["told"]) == {""} and set(table["metric"]) == set(METRICS) and set(table["n"]) == {40}
    u, v = (x.sub(0.5).flatten(1).double() for x in (IMAGES, IMAGES.flip(3)))
    cosines = cosine_similarity(u[:, None], v[None], dim=2)
    found = wide(table).loc[("flip", 1.0, "input", "")]
    assert found["infonce"] == pytest.approx(0.4 * cross_entropy(cosines / 0.2, torch.arange(40)).item(), abs=1e-6)
    assert found["positive"] == pytest.approx(cosines.diagonal().mean().item(), abs=1e-6)
    assert found["negative"] == pytest.approx((cosines.sum() - cosines.trace()).item() / (40 * 39), abs=1e-6)


def test_layers_are_the_networks_own(plain, monkeypatch):
    """The pooled row and the projector's are what the method itself gives, batch by batch."""
    made = plant(monkeypatch, lambda method: None)
    found = wide(layer_sensitivity(plain, IMAGES, ["flip"], batch=40))
    method = made[0]
    with torch.no_grad():
        features = [method.features(x) for x in (IMAGES, IMAGES.flip(3))]
        embedded = [method.projector(f, None)[0] for f in features]
    for layer, (u, v) in {"backbone": features, "projector": embedded}.items():
        assert found.loc[("flip", 1.0, layer, ""), "positive"] == pytest.approx(
            cosine_similarity(u, v).mean().item(), abs=1e-5
        )


class Grey(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,c->nhw", images, torch.tensor([0.2989, 0.587, 0.114]))[:, None].expand_as(images)


class Mirrored(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + images.flip(3)


@pytest.mark.parametrize(
    ("invariant", "to", "other"), [(Grey(), "grayscale", "flip"), (Mirrored(), "flip", "grayscale")]
)
def test_an_invariant_network_is_at_the_floor(plain, monkeypatch, invariant, to, other):
    def blind(method: Method) -> None:
        method.backbone.stem = nn.Sequential(invariant, method.backbone.stem)

    plant(monkeypatch, blind)
    found = wide(layer_sensitivity(plain, IMAGES, [to, other], batch=40))
    floor = found.loc[("none", 0.0)]
    assert floor["positive"].to_numpy() == pytest.approx(1)
    for layer in (*STAGES[1:], "projector"):
        assert found.loc[(to, 1.0, layer, "")].tolist() == pytest.approx(floor.loc[(layer, "")].tolist(), abs=2e-4)
        assert found.loc[(other, 1.0, layer, ""), "infonce"] > floor.loc[(layer, ""), "infonce"] + 0.01
    assert found.loc[(to, 1.0, "input", ""), "positive"] < 0.95  # the pixels themselves are not


@pytest.mark.parametrize("name", ["color", "blur"])
def test_pixels_begin_near_the_floor_and_rise_with_strength(plain, name):
    strengths = [0.01, 0.5, 1.0, 1.5, 2.0]
    found = wide(layer_sensitivity(plain, IMAGES, [name], strengths, batch=40)).xs("input", level="layer")
    rows = found.loc[name].droplevel("told").loc[strengths]
    assert rows["positive"].iloc[0] > 0.999
    assert rows["infonce"].iloc[0] == pytest.approx(found.loc[("none", 0.0, ""), "infonce"], abs=1e-3)
    assert rows["positive"].is_monotonic_decreasing and rows["infonce"].is_monotonic_increasing
    assert rows["positive"].iloc[-1] < 0.99


def test_strengths_do_not_compound_and_augmentations_do_not_depend_on_the_rest(plain):
    once = wide(layer_sensitivity(plain, IMAGES, ["color"], [1.0], batch=20))
    among = wide(layer_sensitivity(plain, IMAGES, ["crop", "color", "crop"], [0.5, 2.0, 1, 1.0], batch=20))
    pd.testing.assert_frame_equal(among.loc[once.index], once)


def test_eval_mode_leaves_buffers_and_does_not_mind_the_order(plain, monkeypatch):
    found = plant(monkeypatch, lambda method: None)
    shown = wide(layer_sensitivity(plain, IMAGES, ["flip", "grayscale"], batch=40))
    saved = plain.weights("method")
    assert all(tensor.equal(saved[name]) for name, tensor in found[0].state_dict().items())
    turned = wide(layer_sensitivity(plain, IMAGES.flip(0), ["flip", "grayscale"], batch=40))
    pd.testing.assert_frame_equal(shown, turned, atol=1e-5, rtol=0)


def test_values_are_means_over_full_batches(plain):
    """Positives do not depend on the other images, so a mean over two batches is that of all; negatives become fewer."""
    two = wide(layer_sensitivity(plain, IMAGES, ["flip"], batch=20))
    one = wide(layer_sensitivity(plain, IMAGES, ["flip"], batch=40))
    assert two["positive"].to_numpy() == pytest.approx(one["positive"].to_numpy(), abs=1e-5)
    assert (two["infonce"] < one["infonce"]).all()
    assert set(layer_sensitivity(plain, IMAGES, ["flip"], batch=15)["n"]) == {30}


def conditioned(monkeypatch: pytest.MonkeyPatch, project: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Plant a projector; what it is told is listed."""
    given: list[Tensor] = []

    def forward(features: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        given.append(condition)
        return project(features, condition), features

    plant(monkeypatch, lambda method: setattr(method.projector, "forward", forward))
    return given


def test_a_projector_that_ignores_what_it_is_told_does_as_well_when_told_wrong(told, monkeypatch):
    conditioned(monkeypatch, lambda features, condition: features)
    found = wide(layer_sensitivity(told, IMAGES, None, [1.0], batch=20)).xs("projector", level="layer")
    for name in ("crop", "flip", "color", "grayscale", "blur"):
        rows = found.loc[(name, 1.0)]
        constant = name in ("flip", "grayscale")  # every image is told the same
        assert set(rows.index) == {"right", "identity", "resampled"} | (set() if constant else {"shuffled"})
        assert (rows - rows.loc["right"]).abs().to_numpy().max() < 1e-9


def test_a_projector_that_reads_undoes_the_change_only_when_told_right(told, monkeypatch):
    """Planted: features are the mean colour, to which the projector adds what it is told was taken off: clean again, if true."""

    def mean_colour(method: Method) -> None:
        method.backbone.stem, method.backbone.blocks = nn.Identity(), nn.Sequential(nn.Identity())
        method.projector.forward = lambda features, condition: (features + condition[:, 5:8] / 0.25, features)

    plant(monkeypatch, mean_colour)
    found = wide(layer_sensitivity(told, IMAGES, ["color"], [1.0], batch=40))
    floor, rows = found.loc[("none", 0.0, "projector", "right")], found.loc[("color", 1.0, "projector")]
    assert rows.loc["right"].tolist() == pytest.approx(floor.tolist(), abs=1e-5)
    assert rows.loc["identity"].tolist() == pytest.approx(found.loc[("color", 1.0, "backbone", "")].tolist(), abs=1e-5)
    for wrong in ("identity", "shuffled", "resampled"):
        assert rows.loc[wrong, "positive"] < 0.99 and rows.loc[wrong, "infonce"] > floor["infonce"] + 0.01


def test_what_is_told(told, monkeypatch):
    given = conditioned(monkeypatch, lambda features, condition: features)
    names = ["crop", "flip", "color", "grayscale", "blur"]
    layer_sensitivity(told, IMAGES[:39], names, [2.0], batch=39)  # an odd number has a middle
    clean, *rest = given
    identity = torch.tensor(
        [0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0.5, 1, 1, 0, 0]
    )  # blur, color, color_diff, crop, flip, grayscale
    assert (clean == identity).all()
    parts = {
        "blur": slice(0, 1),
        "color": slice(1, 8),
        "crop": slice(8, 12),
        "flip": slice(12, 13),
        "grayscale": slice(13, 14),
    }
    resampled = []
    for name in names:
        constant = name in ("flip", "grayscale")
        right, nothing, *shuffled, drawn = [rest.pop(0) for _ in range(3 if constant else 4)]
        assert (nothing == identity).all()
        mine = torch.zeros(14, dtype=torch.bool)
        mine[parts[name]] = True
        assert (right[:, ~mine] == identity[~mine]).all() and (right[:, mine] != identity[mine]).any(dim=1).all()
        if constant:
            assert (right[:, mine] == 1).all()
        else:
            (other,) = shuffled
            assert not (other == right).all(dim=1).any()  # nobody is told its own
            assert sorted(other.tolist()) == sorted(right.tolist())
        resampled.append(drawn)
        if name == "color":
            assert 0.9 < right[:, 1:5].abs().max() <= 1  # twice the half range that training goes to
            assert (right[:, 5:8].abs() < 0.9).all() and right[:, 5:8].std() > 0.01
    assert not rest and all(drawn.equal(resampled[0]) for drawn in resampled)
    assert 0.2 < resampled[0][:, 12].mean() < 0.8 and 0 < resampled[0][:, 13].mean() < 0.5  # flips p .5, greys p .2


def test_colour_is_told_in_the_units_of_the_run(monkeypatch):
    """Half the jitter in training: the same change is twice as much of its range; and what is not a key is not told."""
    weak = TINY.replace(awareness="cassle", condition_on=("color", "color_diff"), augmentations="augself_weak")
    run = fit(weak, progress=False)
    given = conditioned(monkeypatch, lambda features, condition: features)
    layer_sensitivity(run, IMAGES, ["color", "crop"], [1.0], batch=40)
    clean, right, _, _, _, *crop = given
    op = {op.name: op for op in standard5(16)}["color"]
    drawn = op.sample(40, torch.Generator().manual_seed(0))
    torch.testing.assert_close(right[:, :4], 2 * drawn[:, :4])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    before = IMAGES[order]
    torch.testing.assert_close(right[:, 4:], (before - op.apply(before, drawn)).mean(dim=(2, 3)))
    assert (clean == 0).all() and len(crop) == 2 and (crop[0] == 0).all()  # told right and resampled


@pytest.mark.parametrize(
    ("changes", "stages", "projects"),
    [
        ({"host": "supervised", "projector": ()}, STAGES, False),
        (
            {"host": "moco", "awareness": "looc", "pairing": "leave_one_out", "looc_stages": True, "queue": 64},
            STAGES,
            True,
        ),
    ],
)
def test_other_kinds_of_runs(changes, stages, projects):
    table = layer_sensitivity(fit(TINY.replace(**changes), progress=False), IMAGES, ["flip"], batch=40)
    assert list(dict.fromkeys(table["layer"])) == stages + ["projector"] * projects


def test_what_cannot_be_measured_is_refused(plain):
    with pytest.raises(InputError, match="at most 40"):
        layer_sensitivity(plain, IMAGES, batch=41)
    with pytest.raises(InputError, match="rotate"):
        layer_sensitivity(plain, IMAGES, ["rotate"], batch=20)
    with pytest.raises(InputError, match="strength"):
        layer_sensitivity(plain, IMAGES, strengths=[3.0], batch=20)
    with pytest.raises(InputError, match="square"):
        layer_sensitivity(plain, IMAGES[..., :8], batch=20)
