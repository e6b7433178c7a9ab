"""LooC's loss against the plain loop over images, heads and keys; its queues, views, who learns; and LooC++ beside it."""

import math

import pytest
import torch

from mastlib.augment.pipeline import Views, audit
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.features import extract
from mastlib.evaluation.rows import load_backbone
from mastlib.evaluation.subspaces import trained_method
from mastlib.methods import HOSTS, build_method
from mastlib.methods.base import Encoded
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit, generator, make_views

SMALL = {"batch_size": 6, "images": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 8), "augmentations": "standard5"}
LOOC = {**SMALL, "host": "moco", "awareness": "looc", "pairing": "leave_one_out", "queue": 10}
N, D, K = 6, 8, 5


def build(**changes):
    torch.manual_seed(0)
    spec = RunSpec(**{**LOOC, **changes})
    return build_method(spec, get_pipeline(spec.augmentations, 16, spec.without).names)


def views_of(method, **changes):
    spec = RunSpec(**{**LOOC, **changes})
    images = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return make_views(spec, method, get_pipeline(spec.augmentations, 16, spec.without), images, generator(7))


def given():
    """Queries by each head `(N, D)` x (K + 1), and by each head all keys `(K + 1, N, D)`; float64, any length."""
    g = torch.Generator().manual_seed(0)
    queries = torch.randn(K + 1, N, D, generator=g, dtype=torch.float64)
    keys = torch.randn(K + 1, K + 1, N, D, generator=g, dtype=torch.float64)
    return list(queries), list(keys)


def objective(method, queries, keys):
    views = Views(torch.empty(K + 2, N, 0), {}, {}, torch.full((N,), -1))
    return method.aware.objective(method, Encoded([], queries, [], keys), views, None, 0)


def naive(queries, keys, queues, temperature):
    """The formula as it is written, an image, a head and a key at a time; mean over images."""

    def e(a, b):
        return math.exp(float(a @ b) / float(a.norm() * b.norm()) / temperature)

    total = 0.0
    for n in range(N):
        for j in range(K + 1):
            q, positive = queries[0][n], e(queries[0][n], keys[0][j][n])
            total += math.log(positive / (positive + sum(e(q, row) for row in queues[0])))
        for i in range(1, K + 1):
            q, own = queries[i][n], e(queries[i][n], keys[i][i][n])
            shown = sum(e(q, keys[i][j][n]) for j in range(K + 1))
            total += math.log(own / (shown + sum(e(q, row) for row in queues[i])))
    return -total / (K + 1) / N


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_loss_is_the_formula(temperature):
    method = build(temperature=temperature).double().eval()
    queries, keys = given()
    queues = [method.queue.rows, *(queue.rows for queue in method.aware.queues)]
    expected = naive(queries, keys, queues, temperature)
    parts = objective(method, queries, keys)
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-10)
    assert float(parts["loss"]) == pytest.approx(
        float(parts["invariant"] + parts["sensitive"] * K / (K + 1)), rel=1e-12
    )


def test_gradients_by_finite_differences():
    method = build().double().eval()
    queries, keys = given()
    queries = [q.requires_grad_() for q in queries]
    assert torch.autograd.gradcheck(lambda *q: objective(method, list(q), keys)["loss"], tuple(queries), fast_mode=True)


def test_only_the_query_gets_a_gradient_from_the_loss():
    method = build().double()
    queries, keys = ([t.requires_grad_() for t in tensors] for tensors in given())
    objective(method, queries, keys)["loss"].backward()
    assert all(q.grad.abs().sum() > 0 for q in queries)
    assert all(key.grad is None for key in keys)


def test_every_head_queues_its_own_positive():
    method = build().double()
    queries, keys = given()
    before = [method.queue.rows.clone(), *(queue.rows.clone() for queue in method.aware.queues)]
    objective(method, queries, keys)
    queues = [method.queue, *method.aware.queues]
    assert len(queues) == K + 1
    for i, (queue, old) in enumerate(zip(queues, before, strict=True)):
        own = torch.nn.functional.normalize(keys[i][i], dim=1)
        torch.testing.assert_close(queue.rows[:N], own)
        assert torch.equal(queue.rows[N:], old[N:]) and int(queue.next) == N
    objective(method, queries, [2 * key + 1 for key in keys])  # 10 places: the second batch of 6 goes round the end
    own = torch.nn.functional.normalize(2 * keys[3][3] + 1, dim=1)
    torch.testing.assert_close(queues[3].rows[[6, 7, 8, 9, 0, 1]], own)


def test_the_loss_of_a_step_is_taken_before_its_keys_are_queued_and_evaluation_queues_nothing():
    method = build().double()
    training = objective(method, *given())["loss"]
    fresh = build().double().eval()
    torch.testing.assert_close(training, objective(fresh, *given())["loss"])
    torch.testing.assert_close(training, objective(fresh, *given())["loss"])
    assert int(fresh.queue.next) == 0


@pytest.mark.parametrize("without", [(), ("grayscale", "blur")])
def test_there_is_a_query_a_key_with_all_anew_and_one_for_each_augmentation(without):
    method = build(without=without)
    views = views_of(method, without=without)
    count = K - len(without)
    assert views.images.shape[0] == count + 2
    for i in range(1, count + 1):  # key i keeps what was drawn of augmentation i for the query
        assert not audit(views, other=1 + i)[:, i - 1].any()
        assert audit(views, other=1 + i)[:, [k for k in range(count) if k != i - 1]].any()
    encoded = method.aware.encode(method, views)
    assert len(encoded.embeddings) == len(encoded.targets) == count + 1
    assert all(keys.shape == (count + 1, N, D) for keys in encoded.targets)


def test_head_h_reads_the_query_by_the_fast_and_every_key_by_the_slow_copy():
    method = build()
    views = views_of(method)
    with torch.no_grad():
        for parameter in (*method.slow_backbone.parameters(), *method.slow_projector.parameters()):
            parameter.mul_(0.7)
    encoded = method.aware.encode(method, views)
    query = method.features(views.images[0])
    for h in range(K + 1):
        torch.testing.assert_close(encoded.embeddings[h], method.projector.heads[h](query)[0])
        for j in range(K + 1):
            key = method.slow_features(views.images[1 + j])
            torch.testing.assert_close(encoded.targets[h][j], method.slow_projector.heads[h](key)[0])


def test_a_step_reaches_every_trainable_parameter_through_the_query_alone():
    method = build()
    views = views_of(method)
    views.images.requires_grad_()
    method(views, 0)["loss"].backward()
    reached = views.images.grad.abs().flatten(1).sum(dim=1)
    assert reached[0] > 0 and (reached[1:] == 0).all()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    slow = [*method.slow_backbone.parameters(), *method.slow_projector.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in slow)
    assert len(method.projector.heads) == len(method.slow_projector.heads) == K + 1


def test_the_slow_copy_follows_every_head():
    method = build(momentum=0.75)
    views = views_of(method)
    with torch.no_grad():
        for head in method.projector.heads:
            head.last[0].weight.add_(1.0)
    expected = [0.75 * (fast.last[0].weight - 1) + 0.25 * fast.last[0].weight for fast in method.projector.heads]
    method(views, 1)
    for head, weight in zip(method.slow_projector.heads, expected, strict=True):
        torch.testing.assert_close(head.last[0].weight, weight)


@pytest.mark.parametrize("host", [host for host in HOSTS if host != "moco"])
def test_other_hosts_are_refused_in_one_line(host):
    with pytest.raises(InputError, match="LooC compares a query with keys of a slow copy") as refusal:
        RunSpec(host=host, awareness="looc", pairing="leave_one_out")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("pairing", ["independent", "composed", "isolate_one", "mixed"])
def test_other_pairings_are_refused_in_one_line(pairing):
    with pytest.raises(InputError, match="leave_one_out with awareness = 'looc'") as refusal:
        RunSpec(**{**LOOC, "pairing": pairing})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("awareness", ["none", "augself", "cassle"])
def test_its_views_are_refused_to_others(awareness):
    with pytest.raises(InputError, match="leave_one_out with awareness = 'looc'"):
        RunSpec(**{**LOOC, "awareness": awareness})


# LooC++.


@pytest.mark.parametrize("without", [(), ("grayscale", "blur")])
def test_what_transfers_is_a_slice_for_each_head_and_the_heads_are_looc_s(without):
    plain, plus = build(without=without), build(without=without, looc_stages=True)
    heads = K - len(without) + 1
    assert plus.features(views_of(plus).images[0]).shape == (N, heads * plain.backbone.dim) == (N, plus.backbone.dim)
    shapes = [[p.shape for p in method.projector.parameters()] for method in (plain, plus)]
    assert shapes[0] == shapes[1] and len(plus.backbone.stages) == len(plus.projector.heads) == heads


@pytest.mark.parametrize("backbone", [{}, {"backbone": "resnet18", "stem": "small", "width": 32}])
def test_with_equal_copies_and_heads_the_loss_is_looc_s(backbone):
    plain, plus = build(**backbone), build(**backbone, looc_stages=True)  # with one seed, the heads are the same
    views = views_of(plain)
    expected, parts = plain(views, 0), plus(views, 0)
    for name in ("loss", "invariant", "sensitive"):
        torch.testing.assert_close(parts[name], expected[name])
    torch.testing.assert_close(plus.queue.rows, plain.queue.rows)


@pytest.mark.parametrize("h", range(K + 1))
def test_a_head_s_gradient_reaches_its_own_stage_and_the_trunk_and_no_other_stage(h):
    method = build(looc_stages=True)
    views = views_of(method)
    weights = torch.randn(N, D)
    (method.projector.every(method.features(views.images[0]))[h] * weights).sum().backward()
    reached = [any(p.grad is not None and p.grad.any() for p in stage.parameters()) for stage in method.backbone.stages]
    assert reached == [i == h for i in range(K + 1)]
    assert all(p.grad is not None and p.grad.any() for p in method.backbone.trunk.parameters())


def test_stages_part_in_training_and_the_slow_copy_has_its_own():
    method = build(looc_stages=True, momentum=0.5)
    views = views_of(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        method(views, step)["loss"].backward()
        optimizer.step()
    for backbone in (method.backbone, method.slow_backbone):
        weights = [stage.conv1.weight for stage in backbone.stages]
        assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_a_trained_run_is_read_again_with_all_its_stages(tmp_path):
    changes = {"looc_stages": True, "precision": "fp32", "memory_format": "contiguous", "compile": "off"}
    run = fit(RunSpec(**LOOC | changes), progress=False, store=RunStore(tmp_path))
    backbone, images = load_backbone(run), torch.rand(5, 3, 16, 16)
    assert len(backbone.stages) == len(run.info["augmentations"]) + 1
    with torch.no_grad():
        expected = trained_method(run).features(images)
    torch.testing.assert_close(extract(backbone, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("awareness", ["none", "augself", "cassle"])
def test_own_stages_are_refused_to_others(awareness):
    with pytest.raises(InputError, match="looc_stages = True has no effect with awareness") as refusal:
        RunSpec(**{**SMALL, "host": "moco", "awareness": awareness, "looc_stages": True})
    assert "\n" not in str(refusal.value)
