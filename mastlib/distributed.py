"""What a loss needs to know of the other processes of a run: their rows, with gradient."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather


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
