"""What a run of several processes needs to know of each: rows, with gradient, and statistics of all rows."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather, all_reduce


def world() -> tuple[int, int]:
    """(rank of this process, number of processes); (0, 1) outside a distributed run."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(rows: Tensor) -> Tensor:
    """The `rows` `(N, ...)` of all R processes under one another, `(R N, ...)`; `rows` itself where there is one process.

    Gradients flow back to every process. With the mean over processes that data-parallel training takes of them, a loss of
    gathered rows that every process computes alike counts once.
    """
    return rows if world()[1] == 1 else torch.cat(all_gather(rows.contiguous()))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch-norm by the mean and variance of the rows of all processes, of which each has as many; on any device.

    torch has its own for GPUs, and none for CPUs. Parameters, buffers and evaluation are those of nn.BatchNorm1d and 2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C)` or `(N, C, H, W)`, normalised per channel."""
        processes = world()[1]
        if not self.training or processes == 1:
            return super().forward(x)
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = processes * x.numel() // x.shape[1]
        rows = x.float()
        mean = all_reduce(rows.sum(dim=others)) / count
        centred = rows - mean.view(shape)
        variance = all_reduce(centred.square().sum(dim=others)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr,arg-type]
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)  # type: ignore[union-attr,arg-type]
        made = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            made = made * self.weight.view(shape) + self.bias.view(shape)
        return made.to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any with channels."""


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every batch-norm's statistics those of all processes; names of parameters and buffers stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return module
