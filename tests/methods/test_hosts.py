"""Each host does what its paper says: who gets gradients, what the slow copies and MoCo's queue hold, how wide projectors are."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import HOSTS, build_method
from mastlib.methods.base import Encoded, cosine_to_one
from mastlib.methods.moco import Queue
from mastlib.models.backbones import normalise
from mastlib.optim import build_optimizer, learning_rate, peak_lr, set_learning_rate, trainable
from mastlib.spec import RunSpec

NAMES = ("crop", "flip", "color", "grayscale", "blur")
SMALL = {"width": 4, "batch_size": 8, "images": 64, "epochs": 2, "warmup_epochs": 0, "image_size": 16}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "optimizer": "sgd", "lr": 1.0}
CLASSES = 3
SSL = tuple(name for name in HOSTS if name != "supervised")


def small(host: str, **changes) -> RunSpec:
    own = {"projector": (16, 16, 12)} if host != "supervised" else {}
    own |= {"queue": 32} if host == "moco" else {}
    return RunSpec(host=host, **{**SMALL, **own, **changes})


def build(host: str, **changes):
    torch.manual_seed(0)
    return build_method(small(host, **changes), NAMES, CLASSES)


@pytest.fixture(scope="module")
def views():
    """Three batches of eight images in two views."""
    pipeline = get_pipeline("standard5", 16)
    g = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (3, 8, 3, 16, 16), dtype=torch.uint8, generator=g)
    return [pipeline.views(batch, pairing="independent", generator=g) for batch in images]


LABELS = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])


def step_of(method, optimizer, views, step: int) -> dict[str, Tensor]:
    parts = method(views, step, LABELS)
    optimizer.zero_grad()
    parts["loss"].backward()
    optimizer.step()
    return parts


# All hosts.


@pytest.mark.parametrize("host", HOSTS)
def test_one_step_reaches_every_trainable_parameter_and_no_other(host, views):
    method = build(host).train()
    parts = method(views[0], 5, LABELS)  # SwAV's prototypes may move from the first step but one
    parts["loss"].backward()
    assert all(part.isfinite() and part.ndim == 0 and part.dtype == torch.float32 for part in parts.values())
    for name, p in method.named_parameters():
        if not p.requires_grad:
            assert p.grad is None, name
        else:  # of a bias before a batch-norm it is zero but for rounding
            assert p.grad is not None and (p.grad.any() or p.ndim == 1), name


@pytest.mark.parametrize("host", HOSTS)
def test_the_backbone_loads_strictly_into_torchvisions(host):
    with torch.device("meta"):  # names and shapes without the time to draw weights
        method = build(host, backbone="resnet18", stem="standard", width=32)
        reference = torchvision.models.resnet18(weights=None)
    reference.fc = nn.Identity()
    reference.load_state_dict(method.backbone.state_dict(), strict=True)


def test_the_backbone_computes_what_torchvisions_does():
    method = build("simclr", backbone="resnet18", stem="standard", width=32).eval()
    reference = torchvision.models.resnet18(weights=None)
    reference.fc = nn.Identity()
    reference.load_state_dict(method.backbone.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(method.features(images), reference.eval()(normalise(images)))


#: Widths after the backbone: official code of AugSelf (its table of hosts), the papers for VICReg and Barlow Twins.
PAPER = {
    "vicreg": ((8192, 8192, 8192), (8192, 8192, 8192)),
    "barlow": ((8192, 8192, 8192), (8192, 8192, 8192)),
    "simclr": ((512, 128), (2048, 128)),
    "moco": ((512, 128), (2048, 128)),
    "simsiam": ((2048, 2048), (2048, 2048, 2048)),
    "byol": ((4096, 256), (4096, 256)),
    "swav": ((2048, 128), (2048, 128)),
    "supervised": ((), ()),
}
LAST_BIAS = {"vicreg": False, "barlow": False, "simsiam": False}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("which,backbone,dim", [(0, "resnet18", 512), (1, "resnet50", 2048)])
def test_projectors_have_the_papers_sizes(host, which, backbone, dim):
    changes = {"queue": 16} if host == "moco" else {}
    with torch.device("meta"):  # the sizes without the hundreds of megabytes
        method = build_method(RunSpec(host=host, backbone=backbone, **changes), NAMES, CLASSES)
    assert method.sizes == (dim, *PAPER[host][which])
    linear = [m for m in method.projector.modules() if isinstance(m, nn.Linear)]
    assert tuple(layer.out_features for layer in linear) == PAPER[host][which]
    if linear:
        assert linear[0].in_features == dim and (linear[-1].bias is not None) == LAST_BIAS.get(host, True)
        norms = sum(isinstance(m, nn.BatchNorm1d) for m in method.projector.modules())
        assert norms == len(linear) - (host != "simsiam")  # none after the last layer, but in SimSiam


@pytest.mark.parametrize("host,hidden,width", [("simsiam", 512, 2048), ("byol", 4096, 256)])
def test_predictors_have_the_papers_sizes(host, hidden, width):
    with torch.device("meta"):
        method = build_method(RunSpec(host=host, backbone="resnet50"), NAMES)
    first, second = (m for m in method.predictor if isinstance(m, nn.Linear))
    assert (first.in_features, first.out_features, second.out_features) == (width, hidden, width)
    assert isinstance(method.predictor[1], nn.BatchNorm1d) and second is method.predictor[-1]


# MoCo's queue.


def keys(steps: int, n: int, dim: int = 6) -> list[Tensor]:
    g = torch.Generator().manual_seed(n)
    return [5 * torch.randn(n, dim, generator=g) for _ in range(steps)]


@pytest.mark.parametrize("size,batch", [(12, 4), (10, 4), (7, 3), (5, 5), (5, 8), (3, 10)])
def test_the_queue_is_first_in_first_out(size, batch):
    """Also where it is no multiple of the batch, and where a batch is larger than it."""
    torch.manual_seed(0)
    queue = Queue(size, 6)
    kept = list(queue.rows.clone())
    for key in keys(7, batch):
        queue.push(key.requires_grad_())
        kept = (kept + list(functional.normalize(key.detach(), dim=1)))[-size:]
        oldest_first = torch.cat([queue.rows[queue.next :], queue.rows[: queue.next]])
        torch.testing.assert_close(oldest_first, torch.stack(kept))
        assert queue.rows.grad_fn is None and not queue.rows.requires_grad
        torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(size))


def test_moco_queues_the_slow_copys_keys_of_the_second_view(views):
    """Three steps of eight images go round its end; the keys by hand, from copies of the slow networks at each step."""
    size = 20
    method = build("moco", queue=size, momentum=0.9).train()
    optimizer = torch.optim.SGD(trainable(method), lr=0.5)
    kept = list(method.queue.rows.clone())
    for step, batch in enumerate(views):
        slow = copy.deepcopy(nn.Sequential(method.slow_backbone, method.slow_projector)).train()
        if step:
            mix(slow, nn.Sequential(method.backbone, method.projector), 0.9)
        with torch.no_grad():
            key = slow(normalise(batch.images[1]))[0]
            query = method.projector(method.backbone(normalise(batch.images[0])))[0]
        step_of(method, optimizer, batch, step)
        kept = (kept + list(functional.normalize(key, dim=1)))[-size:]
        oldest_first = torch.cat([method.queue.rows[method.queue.next :], method.queue.rows[: method.queue.next]])
        torch.testing.assert_close(oldest_first, torch.stack(kept))
        newest = functional.normalize(query, dim=1)
        assert (oldest_first[-8:] - newest).abs().max() > 0.1  # what AugSelf's code would hold
        assert not method.queue.rows.requires_grad
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(size))


def test_mocos_loss_reads_the_queue_as_it_was_before_the_batch(views):
    method = build("moco").double().train()
    g = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 8, 12, dtype=torch.float64, generator=g)
    before = method.queue.rows.clone()
    loss = method.objective(Encoded([], [query], [], [key]), None, 0)["loss"]
    q, k = (functional.normalize(x, dim=1) for x in (query, key))
    negatives = q @ functional.normalize(before, dim=1).T  # drawn in float32: unit rows but for that
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), negatives], dim=1) / 0.2
    expected = functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)
    assert torch.equal(method.queue.rows[8:], before[8:]) and not torch.equal(method.queue.rows[:8], before[:8])


@pytest.mark.parametrize("host", ["moco", "byol"])
def test_evaluation_changes_no_state(host, views):
    method = build(host, momentum=0.5).eval()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(0.1)  # the slow copy would have something to follow
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        for step in range(3):
            method(views[step], step)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


# Slow copies.


@torch.no_grad()
def mix(slow: nn.Module, fast: nn.Module, m: float) -> None:
    """theta' = m theta' + (1 - m) theta."""
    for target, source in zip(slow.parameters(), fast.parameters(), strict=True):
        target.copy_(m * target + (1 - m) * source)


@pytest.mark.parametrize("host", ["moco", "byol"])
def test_slow_copies_follow_without_gradient(host, views):
    spec = small(host, momentum=0.7)
    method = build(host, momentum=0.7).train()
    optimizer = torch.optim.SGD(trainable(method), lr=0.5)
    fast = nn.ModuleList([method.backbone, method.projector])
    slow = nn.ModuleList([method.slow_backbone, method.slow_projector])
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    expected = copy.deepcopy(slow)
    for step, batch in enumerate(views):
        if step:  # by the weights that the last step left; BYOL's rate rises (appendix C.1 of its paper)
            rise = (math.cos(math.pi * step / spec.total_steps) + 1) / 2
            mix(expected, fast, 0.7 if host == "moco" else 1 - 0.3 * rise)
        step_of(method, optimizer, batch, step)
        for ours, theirs in zip(slow.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
            assert ours.grad is None and not ours.requires_grad
    moved = [(a - b).abs().max() for a, b in zip(slow.parameters(), fast.parameters(), strict=True)]
    assert max(moved) > 1e-3  # behind the fast ones
    optimised = {id(p) for group in build_optimizer(method, spec).param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in slow.parameters()}


def test_momentum_of_byol_rises_to_one():
    rates = [cosine_to_one(0.996, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.996, abs=1e-15) and rates[50] == pytest.approx(0.998) and rates[100] == 1
    assert rates == sorted(rates) and cosine_to_one(0.996, 500, 100) == 1
    method = build("byol", momentum=0.9)
    assert method.rate(0) == pytest.approx(0.9) and method.rate(small("byol").total_steps) == 1
    assert build("moco", momentum=0.9).rate(10) == 0.9


# What carries a gradient.


def test_simsiams_targets_carry_no_gradient():
    """Its gradient is that of the loss with the embeddings as constants where they are targets."""
    method = build("simsiam").double().train()
    z1, z2 = torch.randn(2, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z1.requires_grad_(), z2.requires_grad_()
    loss = method.objective(Encoded([], [z1, z2], []), None, 0)["loss"]
    cos = functional.cosine_similarity
    constant = [z1.detach().clone(), z2.detach().clone()]
    first, second = (cos(method.predictor(z), t).mean() for z, t in zip((z1, z2), constant[::-1], strict=True))
    torch.testing.assert_close(loss, -(first + second) / 2, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(loss, (z1, z2))
    torch.testing.assert_close(ours, torch.autograd.grad(-(first + second) / 2, (z1, z2)), rtol=1e-9, atol=1e-14)
    through_targets = -(cos(method.predictor(z1), z2).mean() + cos(method.predictor(z2), z1).mean()) / 2
    other = torch.autograd.grad(through_targets, z1)[0]
    assert (other - ours[0]).abs().max() > 1e-3  # it would be another, were they not


def test_byols_targets_are_the_slow_copys_and_carry_no_gradient(views):
    method = build("byol").train()
    encoded = method.encode(views[0].images, [None, None])
    for z, target in zip(encoded.embeddings, encoded.targets, strict=True):
        assert z.requires_grad and not target.requires_grad
        torch.testing.assert_close(z.detach(), target)  # at the start they are alike
    method = method.double()
    z1, z2, t1, t2 = torch.randn(4, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t1.requires_grad_(), t2.requires_grad_()
    loss = method.objective(Encoded([], [z1, z2], [], [t1, t2]), None, 0)["loss"]
    unit = [functional.normalize(x, dim=1) for x in (method.predictor(z1), t2, method.predictor(z2), t1)]
    expected = sum((p - t).square().sum(dim=1).mean() for p, t in (unit[:2], unit[2:]))  # BYOL's eq. 2, both ways
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    assert torch.autograd.grad(loss, (t1, t2), allow_unused=True) == (None, None)


def test_simsiams_predictor_keeps_its_learning_rate_under_the_schedule():
    spec = small("simsiam", warmup_epochs=1)
    method = build_method(spec, NAMES)
    optimizer = build_optimizer(method, spec)
    predictor = {id(p) for p in method.predictor.parameters()}
    peak = peak_lr(spec)
    for step in range(spec.total_steps):
        lr = learning_rate(spec, step, 8)
        set_learning_rate(optimizer, lr, peak)
        seen = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert seen.keys() == {id(p) for p in trainable(method)}
        assert {rate for p, rate in seen.items() if p in predictor} == {peak}
        assert {rate for p, rate in seen.items() if p not in predictor} == {lr}
    assert lr < peak / 10


# SwAV.


def test_swavs_prototypes_stay_at_first_and_are_unit_rows_at_each_step(views):
    method = build("swav", freeze_prototypes=0.125, prototypes=6).train()  # 2 of 16 steps
    assert method.frozen_steps == 2
    optimizer = torch.optim.SGD(trainable(method), lr=1.0)
    start = method.prototypes.detach().clone()
    seen = []
    for step in range(4):
        parts = method(views[step % 3], step)
        seen.append(method.prototypes.detach().clone())  # as the step's scores read them
        torch.testing.assert_close(seen[-1].norm(dim=1), torch.ones(6))
        optimizer.zero_grad()
        parts["loss"].backward()
        assert (method.prototypes.grad is None) == (step < 2)
        optimizer.step()
    torch.testing.assert_close(seen[2], start)
    assert (seen[3] - start).abs().max() > 1e-4


def test_swav_scores_are_cosines():
    method = build("swav", prototypes=6).double().eval()
    z1, z2 = torch.randn(2, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = [method.objective(Encoded([], [a * z1, z2], []), None, 9)["loss"].detach() for a in (1.0, 50.0)]
    torch.testing.assert_close(*losses)


# Supervised.


def test_images_without_label_do_not_count():
    method = build("supervised").double()
    f1, f2 = torch.randn(2, 8, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    known = LABELS >= 0
    ours = method.objective(Encoded([f1, f2], [], []), LABELS, 0)["loss"]
    expected = [functional.cross_entropy(method.classifier(f[known]), LABELS[known]) for f in (f1, f2)]
    assert float(ours) == pytest.approx(float(expected[0] + expected[1]) / 2, rel=1e-12)


def test_a_batch_without_labels_leaves_everything_as_it_is(views):
    method = build("supervised").train()
    loss = method(views[0], 0, torch.full((8,), -1))["loss"]
    assert float(loss) == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_supervision_needs_labels(views):
    with pytest.raises(InputError, match="labels"):
        build("supervised")(views[0], 0, None)


@pytest.mark.parametrize("host", SSL)
def test_other_hosts_do_not_see_labels(host, views):
    without, given = (build(host)(views[0], 0, labels)["loss"] for labels in (None, LABELS))
    assert torch.equal(without, given)
