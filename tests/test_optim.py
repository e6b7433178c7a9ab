"""LARS by its formula and against lightly's; groups and schedule as VICReg's."""

from itertools import pairwise

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn

from mastlib.methods import build_method
from mastlib.optim import LARS, build_optimizer, learning_rate, parameter_groups, set_learning_rate
from mastlib.spec import RunSpec

SPEC = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(8, 8, 8), image_size=16, images=512, batch_size=128,
    epochs=20, warmup_epochs=2, lr=0.4,
)  # fmt: skip


def test_one_step_by_hand():
    w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([{"params": [w], "weight_decay": 0.1}], lr=2.0)
    w.grad = torch.tensor([[1.0, 0.0]])
    optimizer.step()
    update = torch.tensor([1.3, 0.4])
    trust = 0.001 * 5 / update.norm()
    torch.testing.assert_close(w.detach()[0], torch.tensor([3.0, 4.0]) - 2.0 * trust * update)


def test_steps_equal_lightly_without_weight_decay():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    a = LARS(ours.parameters(), lr=0.3)
    b = LightlyLARS(theirs.parameters(), lr=0.3, momentum=0.9, trust_coefficient=0.001, weight_decay=1e-12)
    x = torch.randn(7, 5)
    for _ in range(4):
        for net, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-7)


def test_schedule_warms_up_to_the_scaled_rate_and_ends_at_its_thousandth():
    peak = 0.4 * 128 / 256
    rates = [learning_rate(SPEC, step, 4) for step in range(81)]
    assert rates[0] == 0 and rates[4] == pytest.approx(peak / 2) and max(rates) == rates[8] == pytest.approx(peak)
    assert rates[80] == pytest.approx(peak / 1000)
    assert all(a > b for a, b in pairwise(rates[8:]))


@pytest.mark.parametrize("name,kind", [("lars", LARS), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_groups_keep_decay_off_vectors_and_masks_at_their_own_rate(name, kind):
    spec = SPEC.replace(awareness="mast", pairing="isolate_one", optimizer=name, mask_lr=10.0, weight_decay=0.05)
    method = build_method(spec, ("crop", "flip"))
    optimizer = build_optimizer(method, spec)
    assert isinstance(optimizer, kind)
    set_learning_rate(optimizer, 0.01, 0.1)
    matrices, vectors, masks = optimizer.param_groups
    assert all(p.ndim > 1 for p in matrices["params"]) and all(p.ndim == 1 for p in vectors["params"])
    assert masks["params"] == [method.aware.masks.raw]
    assert (matrices["weight_decay"], vectors["weight_decay"], masks["weight_decay"]) == (0.05, 0, 0)
    assert (matrices["lr"], vectors["lr"], masks["lr"]) == (0.01, 0.01, pytest.approx(0.1))
    grouped = sum(len(g["params"]) for g in parameter_groups(method, spec))
    assert grouped == sum(p.requires_grad for p in method.parameters())
