"""AugSelf's targets, its tasks' losses against a hand computation, and who is moved by them."""

import dataclasses
import math

import pytest
import torch

from mastlib.augment.algebra import differences
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import HOSTS, build_method
from mastlib.methods.augself import AugSelf, both_orders, task_loss
from mastlib.methods.base import Encoded
from mastlib.spec import RunSpec

SMALL = {"batch_size": 12, "images": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16, "awareness": "augself"}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16), "augmentations": "standard5"}
OF_HOST = {"moco": {"queue": 24}, "supervised": {"projector": ()}, "swav": {"prototypes": 6}}
N, DIM = 12, 10
TASKS = {  # preset -> the tasks that it has
    "standard5": ("crop", "flip", "color", "blur"),
    "augself_rot": ("crop", "flip", "color", "blur", "rot90"),
    "augself_sol": ("crop", "flip", "color", "blur", "solarize"),
}


def views_of(preset="standard5", n=N, seed=2):
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=g)
    return get_pipeline(preset, 16).views(images, "independent", torch.Generator().manual_seed(seed))


def rearranged(views, order):
    """The same images' views, taken in another order, or one of them twice."""
    params = {name: rows[order] for name, rows in views.params.items()}
    applied = {name: rows[order] for name, rows in views.applied.items()}
    return dataclasses.replace(views, images=views.images[order], params=params, applied=applied)


def heads(preset="standard5", weights=None, dim=DIM, tasks=None):
    """AugSelf alone, in float64."""
    tasks = tasks or TASKS[preset]
    spec = {"augself_tasks": tasks, "augself_weights": weights or (1.0,) * len(tasks)}
    torch.manual_seed(0)
    return AugSelf(
        RunSpec(**{**SMALL, "augmentations": preset, **spec}), get_pipeline(preset, 16).names, (dim,)
    ).double()


def features():
    return list(torch.randn(2, N, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def build(host, **changes):
    torch.manual_seed(0)
    spec = RunSpec(**{**SMALL, "host": host, **OF_HOST.get(host, {}), **changes})
    return build_method(spec, get_pipeline(spec.augmentations, 16).names, 3)


@pytest.mark.parametrize("preset", TASKS)
def test_targets_of_the_other_order_are_those_of_the_views_swapped(preset):
    views = views_of(preset, n=64)
    there, back = differences(views), differences(rearranged(views, [1, 0]))
    assert set(there) == set(TASKS[preset])
    for task, target in there.items():
        both = both_orders(task, target)
        assert torch.equal(both[:64], target)
        assert torch.equal(both[64:], back[task]) and not torch.equal(target, torch.zeros_like(target))
        if task not in ("flip", "rot90"):
            assert torch.equal(both[64:], -target)


def test_the_other_order_of_quarter_turns():
    turns = torch.tensor([0, 1, 2, 3])
    assert both_orders("rot90", turns).tolist() == [0, 1, 2, 3, 0, 3, 2, 1]
    assert both_orders("flip", torch.tensor([[1.0], [0.0]])).flatten().tolist() == [1, 0, 1, 0]
    assert both_orders("blur", torch.tensor([[0.5], [-0.25]])).flatten().tolist() == [0.5, -0.25, -0.5, 0.25]


@pytest.mark.parametrize("preset", TASKS)
def test_identical_views_differ_in_nothing(preset):
    views = views_of(preset)
    for task, target in differences(rearranged(views, [0, 0])).items():
        assert torch.equal(target, torch.full_like(target, 1 if task == "flip" else 0))


@pytest.mark.parametrize("preset", TASKS)
def test_every_task_against_a_hand_computation(preset):
    """Image by image, first (v0, v1), then (v1, v0); the heads' outputs are taken as they are."""
    aware, views, (first, second) = heads(preset), views_of(preset), features()
    added = aware.added(Encoded([first, second], [], []), views)
    assert set(added) == {f"augself_{task}" for task in TASKS[preset]}
    targets, swapped = differences(views), differences(rearranged(views, [1, 0]))
    rows = [torch.cat([a, b]) for a, b in zip(first, second, strict=True)]
    rows += [torch.cat([b, a]) for a, b in zip(first, second, strict=True)]
    for task in TASKS[preset]:
        outputs = aware.heads[task](torch.stack(rows)).detach()
        wanted = [*targets[task], *swapped[task]]
        terms = []
        for output, target in zip(outputs, wanted, strict=True):
            if task == "rot90":
                terms.append(math.log(sum(math.exp(o) for o in output)) - float(output[target]))
            elif task == "flip":
                chance = 1 / (1 + math.exp(-float(output[0])))
                terms.append(-math.log(chance if target[0] == 1 else 1 - chance))
            else:
                terms += [(math.tanh(o) - float(t)) ** 2 for o, t in zip(output, target, strict=True)]
        assert float(added[f"augself_{task}"].detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-6)


@pytest.mark.parametrize("preset", TASKS)
def test_heads_that_say_nothing_cost_the_targets_own_spread(preset):
    aware, views = heads(preset), views_of(preset)
    for head in aware.heads.values():
        torch.nn.init.zeros_(head[-1].weight)
        torch.nn.init.zeros_(head[-1].bias)
    added = aware.added(Encoded(features(), [], []), views)
    for task, target in differences(views).items():
        blind = {"flip": math.log(2), "rot90": math.log(4)}.get(task)
        expected = float(target.double().square().mean()) if blind is None else blind
        assert float(added[f"augself_{task}"].detach()) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_prediction_costs_nothing():
    target = torch.tensor([[0.5, -0.25]])
    assert float(task_loss("crop", torch.atanh(target), target)) == pytest.approx(0, abs=1e-12)
    assert float(task_loss("flip", torch.tensor([[40.0], [-40.0]]), torch.tensor([[1.0], [0.0]]))) < 1e-12
    assert float(task_loss("rot90", 40 * torch.eye(4), torch.arange(4))) < 1e-12


@pytest.mark.parametrize("preset", TASKS)
def test_a_head_says_as_much_as_its_target(preset):
    """Shapes agree, so nothing is broadcast (the authors' code compares (2N, 1) with (2N,) in solarize)."""
    aware, views = heads(preset), views_of(preset)
    for task, target in differences(views).items():
        made = aware.heads[task](torch.zeros(2 * N, 2 * DIM, dtype=torch.float64))
        assert made.shape == ((2 * N, 4) if task == "rot90" else (2 * N, *target.shape[1:]))


def test_weights_scale_their_own_task_and_the_sum_joins_the_host_s_loss():
    views, tasks = views_of(), ("color", "crop", "blur")
    ones = heads(tasks=tasks).added(Encoded(features(), [], []), views)
    weighed = heads(tasks=tasks, weights=(2.0, 0.5, 0.0)).added(Encoded(features(), [], []), views)
    for task, weight in zip(tasks, (2.0, 0.5, 0.0), strict=True):
        torch.testing.assert_close(weighed[f"augself_{task}"], weight * ones[f"augself_{task}"])
    parts = build("simclr", augself_weights=(0.7, 0.2))(views, 0)
    bare = build("simclr", augself_weights=(0.0, 0.0))(views, 0)
    expected = bare["loss"] + parts["augself_crop"] + parts["augself_color"]
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize("host", HOSTS)
def test_on_every_host_the_backbone_learns_from_both_views_but_moco_s_from_the_first(host):
    method, views = build(host), views_of()
    views.images.requires_grad_()
    labels = torch.arange(N) % 3 if method.wants_labels else None
    parts = method(views, 0, labels)
    first, second = torch.autograd.grad(
        parts["augself_crop"] + parts["augself_color"], views.images, retain_graph=True
    )[0]
    assert first.abs().sum() > 0
    assert (second.abs().sum() == 0) == (host == "moco")
    (parts["augself_crop"] + parts["augself_color"]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.aware.parameters())
    assert sum(float(p.grad.abs().sum()) for p in method.backbone.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in method.projector.parameters())
    if hasattr(method, "slow_backbone"):
        assert all(p.grad is None for p in method.slow_backbone.parameters())


def test_moco_s_second_features_are_those_of_the_slow_copy():
    method, views = build("moco"), views_of()
    with torch.no_grad():
        for parameter in method.slow_backbone.parameters():
            parameter.mul_(0.5)
    features = method.aware.encode(method, views).features
    torch.testing.assert_close(features[0], method.features(views.images[0]))
    torch.testing.assert_close(features[1], method.slow_features(views.images[1]))
    assert not features[1].requires_grad


@pytest.mark.parametrize("preset,task", [("augself_sol", "solarize"), ("augself_rot", "rot90")])
def test_tasks_of_the_larger_pipelines_train(preset, task):
    tasks = ("crop", "flip", "color", "blur", task)
    method = build("simclr", augmentations=preset, augself_tasks=tasks, augself_weights=(1.0,) * 5)
    views = views_of(preset)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    history = []
    for step in range(8):
        parts = method(views, step)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        history.append(float(parts[f"augself_{task}"].detach()))
    assert history[-1] < history[0]


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"augself_tasks": ("crop", "grayscale")}, "augself_tasks"),
        ({"augself_tasks": ("crop", "crop")}, "augself_tasks"),
        ({"augself_tasks": ()}, "augself_tasks"),
        ({"augself_tasks": ("crop",)}, "a number for each of augself_tasks"),
        ({"augself_weights": (1.0, -1.0)}, "augself_weights"),
        ({"pairing": "leave_one_out"}, "pairing"),
    ],
)
def test_bad_tasks_are_refused_in_one_line(changes, says):
    with pytest.raises(InputError, match=says) as refusal:
        RunSpec(**{**SMALL, **changes})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("preset,task", [("spatial", "color"), ("standard5", "rot90"), ("standard5", "solarize")])
def test_a_task_that_the_pipeline_lacks_is_refused_in_one_line(preset, task):
    with pytest.raises(InputError, match="augself_tasks.*augmentations of the views: crop,") as refusal:
        build("simclr", augmentations=preset, augself_tasks=("crop", task))
    assert "\n" not in str(refusal.value)
