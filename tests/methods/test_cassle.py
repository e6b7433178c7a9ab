"""CASSLE's projectors against the plain one, and that each view is told what was done to it."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from mastlib.augment.algebra import DESCRIPTORS, descriptors
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import build_method
from mastlib.methods.cassle import ConditionedProjector, HyperProjector
from mastlib.models.heads import Projector
from mastlib.spec import RunSpec
from mastlib.training import generator, make_views

SMALL = {"batch_size": 12, "images": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16, "awareness": "cassle"}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (20, 14), "augmentations": "standard5"}
SMALL |= {"condition_depth": 2, "condition_width": 9}
KEYS = ("blur", "color", "color_diff", "crop", "grayscale")
N, DIM, TOLD = 12, 32, 13  # images; width of the features (8 w); length of the descriptor
MODES = ("concat", "raw", "add", "multiply", "hypernetwork")


def spec_of(host="simclr", **changes):
    return RunSpec(**{**SMALL, "host": host, **({"queue": 24} if host == "moco" else {}), **changes})


def build(host="simclr", **changes):
    torch.manual_seed(0)
    spec = spec_of(host, **changes)
    return build_method(spec, get_pipeline(spec.augmentations, 16).names)


def views_of(seed=2, **options):
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=g)
    options = {"color_diff": True, **options}
    return get_pipeline("standard5", 16).views(images, "independent", torch.Generator().manual_seed(seed), **options)


def told_otherwise(views, first=0, second=1):
    """The same images, as if they had been made with the parameters of the views `first` and `second`."""
    order = [first, second]
    params = {name: rows[order] for name, rows in views.params.items()}
    return dataclasses.replace(views, params=params, color_diff=views.color_diff[order])


def given(n=N, seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIM, generator=g), torch.randn(n, TOLD, generator=g)


def plain_twin(projector, sizes, last="bias"):
    twin = Projector(sizes, last)
    twin.load_state_dict({k: v for k, v in projector.state_dict().items() if not k.startswith("told")})
    return twin


@pytest.mark.parametrize("mode,constant", [("add", 0.0), ("multiply", 1.0)])
@pytest.mark.parametrize("host", ["simclr", "vicreg", "simsiam"])
def test_a_network_that_says_nothing_leaves_the_plain_projector(mode, constant, host):
    method = build(host, condition_mode=mode)
    torch.nn.init.zeros_(method.projector.told[-1].weight)
    torch.nn.init.constant_(method.projector.told[-1].bias, constant)
    features, told = given()
    plain = plain_twin(method.projector, (DIM, 20, 14), method.last)
    for ours, theirs in zip(method.projector(features, told), plain(features), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["concat", "raw", "add", "multiply"])
def test_modes_by_hand(mode):
    projector = build(condition_mode=mode).projector
    features, told = given()
    known = told if mode == "raw" else projector.told(told)
    joined = {"add": features + known, "multiply": features * known} if mode in ("add", "multiply") else {}
    rows = joined.get(mode, torch.cat([features, known], dim=1) if mode in ("concat", "raw") else None)
    plain = plain_twin(projector, (rows.shape[1], 20, 14))
    torch.testing.assert_close(projector(features, told)[0], plain(rows)[0])


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize(
    "mode,inputs,said", [("concat", DIM + 9, 9), ("raw", DIM + TOLD, None), ("add", DIM, DIM), ("multiply", DIM, DIM)]
)
def test_shapes_are_those_of_the_paper_s_code(mode, inputs, said, depth):
    projector = build(condition_mode=mode, condition_depth=depth).projector
    assert isinstance(projector, ConditionedProjector)
    assert projector.body[0].in_features == inputs
    if said is None:
        assert projector.told is None
        return
    layers = [layer for layer in projector.told if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in layers] == [TOLD] + [9] * (depth - 1)
    assert layers[-1].out_features == said and len(layers) == depth
    assert layers[-1].bias is None
    assert isinstance(projector.told[-1], torch.nn.BatchNorm1d)
    embeddings, hidden = projector(*given())
    assert embeddings.shape == (N, 14) and hidden.shape == (N, 20)


@pytest.mark.parametrize("sizes", [(DIM, 20, 14), (DIM, 18, 20, 14)])
def test_a_constant_hypernetwork_is_a_fixed_mlp(sizes):
    torch.manual_seed(0)
    hyper = HyperProjector(sizes, "bias", (TOLD, 9))
    norm = hyper.weights[-1]
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.normal_(norm.bias, std=0.2)
    features, told = given()
    start, rows, hidden = 0, features, None
    for layer, (inputs, outputs) in enumerate(hyper.shapes):
        weight = norm.bias[start : start + inputs * outputs].view(inputs, outputs)
        bias = norm.bias[start + inputs * outputs : start + inputs * outputs + outputs]
        start += inputs * outputs + outputs
        hidden = rows.relu() if layer else rows
        rows = functional.linear(hidden, weight.T, bias)
    assert start == len(norm.bias) == HyperProjector.count(sizes)
    ours = hyper(features, told)
    torch.testing.assert_close(ours[0], rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], hidden, rtol=1e-5, atol=1e-5)


def test_a_hypernetwork_makes_a_projector_for_each_image():
    """Image by image, from its own generated weights."""
    torch.manual_seed(0)
    hyper = HyperProjector((DIM, 20, 14), "bias", (TOLD, 9))
    features, told = given()
    generated = hyper.weights(told)
    rows = []
    for feature, weights in zip(features, generated, strict=True):
        first, rest = weights[: DIM * 20].view(DIM, 20), weights[DIM * 20 :]
        hidden = (feature @ first + rest[:20]).relu()
        rows.append(hidden @ rest[20 : 20 + 280].view(20, 14) + rest[300:])
    torch.testing.assert_close(hyper(features, told)[0], torch.stack(rows), rtol=1e-4, atol=1e-5)
    assert 0.3 < hyper(*given(256))[1].std().item() < 3  # activations start near one


@pytest.mark.parametrize("mode", MODES)
def test_each_view_is_told_its_own_descriptor(mode):
    method, views = build(condition_mode=mode).eval(), views_of()
    told = descriptors(views, KEYS)
    assert told.shape == (2, N, TOLD) and not torch.equal(told[0], told[1])
    encoded = method.aware.encode(method, views)
    swapped = method.aware.encode(method, told_otherwise(views, 1, 0))
    for i in range(2):
        torch.testing.assert_close(encoded.embeddings[i], method.projector(encoded.features[i], told[i])[0])
        torch.testing.assert_close(swapped.embeddings[i], method.projector(encoded.features[i], told[1 - i])[0])
        torch.testing.assert_close(swapped.features[i], encoded.features[i])
        assert not torch.allclose(swapped.embeddings[i], encoded.embeddings[i])


def test_the_control_tells_each_view_of_another_image_s():
    views = views_of()
    own, others = (torch.stack(build(condition_given=given).aware.conditions(views)) for given in ("own", "another"))
    torch.testing.assert_close(own, descriptors(views, KEYS), rtol=0, atol=0)
    torch.testing.assert_close(others, own[:, [N - 1, *range(N - 1)]], rtol=0, atol=0)
    assert not any(torch.equal(others[v, i], own[v, i]) for v in range(2) for i in range(N))


@pytest.mark.parametrize("host", ["moco", "byol"])
def test_the_slow_projector_is_told_of_its_own_view(host):
    method, views = build(host).eval(), views_of()
    with torch.no_grad():
        for parameter in method.slow_projector.parameters():
            parameter.add_(0.01)
    told = descriptors(views, KEYS)
    encoded = method.aware.encode(method, views)
    for target, i in zip(encoded.targets, [1] if host == "moco" else [0, 1], strict=True):
        torch.testing.assert_close(target, method.slow_projector(method.slow_features(views.images[i]), told[i])[0])
    if host == "moco":
        other = method.aware.encode(method, told_otherwise(views, 0, 0))
        torch.testing.assert_close(other.embeddings[0], encoded.embeddings[0])
        assert not torch.allclose(other.targets[0], encoded.targets[0])


def test_the_slow_copy_follows_the_conditioning_network():
    method, views = build("moco", momentum=0.5), views_of()
    with torch.no_grad():
        method.projector.told[0].weight.add_(1.0)
    before, fast = method.slow_projector.told[0].weight.clone(), method.projector.told[0].weight.detach().clone()
    method(views, 1)
    torch.testing.assert_close(method.slow_projector.told[0].weight, (before + fast) / 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", ["simclr", "moco"])
def test_a_step_reaches_every_trainable_parameter(mode, host):
    method = build(host, condition_mode=mode)
    method(views_of(), 0)["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)
    assert not any("told" in name for name in method.backbone.state_dict())


def test_color_diff_is_asked_of_the_pipeline_when_it_is_told():
    pipeline, images = get_pipeline("standard5", 16), torch.rand(N, 3, 16, 16)
    asked, unasked = spec_of(), spec_of(condition_on=("color", "crop"))
    with_it = make_views(asked, build(), pipeline, images, generator(0))
    method = build(condition_on=("color", "crop"))
    without = make_views(unasked, method, pipeline, images, generator(0))
    assert with_it.color_diff.shape == (2, N, 3) and with_it.color_diff.abs().sum() > 0
    assert without.color_diff is None
    assert method.aware.conditions(without)[0].shape == (N, 8)
    torch.testing.assert_close(build().aware.conditions(with_it)[1], descriptors(with_it, KEYS)[1])


def test_keys_are_stored_sorted():
    one, other = spec_of(condition_on=["crop", "blur", "flip"]), spec_of(condition_on=("flip", "crop", "blur"))
    assert one == other and one.condition_on == ("blur", "crop", "flip")
    assert RunSpec.from_dict(one.to_dict()) == one
    assert spec_of(condition_on=tuple(reversed(KEYS))) == spec_of()
    assert build(condition_on=("crop", "blur")).aware.length == DESCRIPTORS["crop"] + DESCRIPTORS["blur"]


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"condition_on": ("crop", "rot90")}, "condition_on"),
        ({"condition_on": ("crop", "crop")}, "condition_on"),
        ({"condition_on": ()}, "condition_on"),
        ({"condition_mode": "film"}, "condition_mode"),
        ({"condition_given": "none"}, "condition_given"),
        ({"host": "supervised", "projector": ()}, "CASSLE tells a projector"),
        ({"awareness": "none"}, "no effect"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, says):
    with pytest.raises(InputError, match=says) as refusal:
        RunSpec(**{**SMALL, **changes})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "preset,keys", [("spatial", ("crop", "color_diff")), ("appearance", ("crop",)), ("spatial", ("blur",))]
)
def test_a_part_that_the_pipeline_lacks_is_refused_in_one_line(preset, keys):
    with pytest.raises(InputError, match="condition_on.*parts that the pipeline has") as refusal:
        build(augmentations=preset, condition_on=keys)
    assert "\n" not in str(refusal.value)


def test_a_hypernetwork_that_is_too_large_is_refused_in_one_line():
    large = {"condition_mode": "hypernetwork", "projector": (8192, 8192), "batch_size": 64}
    with pytest.raises(InputError, match="condition_mode = 'hypernetwork' would generate 16.1 GiB") as refusal:
        build(**large)
    assert "\n" not in str(refusal.value)


def test_a_projector_that_is_told_nothing_says_so():
    for mode in ("concat", "hypernetwork"):
        with pytest.raises(InputError, match="descriptor of its view"):
            build(condition_mode=mode).projector(given()[0])
