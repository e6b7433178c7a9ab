"""Optimisers and schedules of the papers that torch does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mastlib.methods.base import Method
from mastlib.spec import RunSpec


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step per matrix is scaled by trust = eta |w| / |g + wd w| (You, Gitman, Ginsburg 2017).

    Groups with `adapt=False` (biases, batch-norm, masks) take plain momentum steps. As in VICReg's official code, weight
    decay enters before the trust ratio and the learning rate after the momentum.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, eta: float = 0.001) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad.add(p, alpha=group["weight_decay"])
                if group["adapt"]:
                    weight_norm, update_norm = p.norm(), update.norm()
                    trust = torch.where(
                        (weight_norm > 0) & (update_norm > 0), group["eta"] * weight_norm / update_norm, 1.0
                    )
                    update = update * trust
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(update)
                p.add_(momentum, alpha=-group["lr"])
        return loss


def parameter_groups(method: Method, spec: RunSpec) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors (biases, batch-norm) without; masks without, at `mask_lr` times the rate.

    Those of the method's constant parameters apart: `constant` groups stay at the peak rate.
    """
    masks = list(method.mask_parameters())
    known, constant = {id(p) for p in masks}, {id(p) for p in method.constant_parameters()}
    others = [p for p in method.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = []
    for stays in (False, True):
        mine = [p for p in others if (id(p) in constant) == stays]
        matrices, vectors = [p for p in mine if p.ndim > 1], [p for p in mine if p.ndim <= 1]
        shared = {"scale": 1.0, "constant": stays}
        groups += [
            {"params": matrices, "weight_decay": spec.weight_decay, "adapt": True, **shared},
            {"params": vectors, "weight_decay": 0.0, "adapt": False, **shared},
        ]
    groups.append({"params": masks, "weight_decay": 0.0, "adapt": False, "scale": spec.mask_lr, "constant": False})
    return [group for group in groups if group["params"]]


def build_optimizer(method: Method, spec: RunSpec) -> torch.optim.Optimizer:
    """The optimiser that `spec.optimizer` names over the method's parameter groups."""
    groups, lr = parameter_groups(method, spec), peak_lr(spec)
    if spec.optimizer == "lars":
        return LARS(groups, lr=lr)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=lr, fused=True)  # one pass over each tensor: a fifth of the time on a CPU


def peak_lr(spec: RunSpec) -> float:
    """lr x batch_size / 256 (the linear scaling rule, Goyal et al. 2017)."""
    return spec.lr * spec.batch_size / 256


def learning_rate(spec: RunSpec, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up from 0 over `warmup_epochs`, then a cosine from the peak to its thousandth (VICReg's official code)."""
    warmup, total = spec.warmup_epochs * steps_per_epoch, spec.epochs * steps_per_epoch
    if step < warmup:
        return peak_lr(spec) * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    q = 0.5 * (1 + math.cos(math.pi * progress))
    return peak_lr(spec) * (q + 0.001 * (1 - q))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, peak: float) -> None:
    """Give every group its share (`scale`) of `lr`, of `peak` where it is constant."""
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant"] else lr) * group["scale"]


def trainable(method: nn.Module) -> list[nn.Parameter]:
    """The parameters that are optimised."""
    return [p for p in method.parameters() if p.requires_grad]
