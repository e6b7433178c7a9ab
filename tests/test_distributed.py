"""A run of two processes computes what one process with all rows computes: losses, gradients, and MoCo's queue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from mastlib import losses
from mastlib.distributed import gather, world
from mastlib.methods.moco import Queue

LOSSES = {
    "nt_xent": lambda a, b, w: losses.nt_xent(a, b).mean(),
    "nt_xent weighted": lambda a, b, w: losses.nt_xent(a, b, weights=w).mean(),
    "vicreg": lambda a, b, w: losses.vicreg(a, b)["loss"],
    "barlow": lambda a, b, w: losses.barlow_twins(a, b)["loss"],
    "swav": lambda a, b, w: losses.swav(functional.normalize(a, dim=1), functional.normalize(b, dim=1)),
    "cross-entropy": lambda a, b, w: losses.cross_entropy(
        a, ((5 * w[:, 0]).long() - 2).clamp(min=-1)
    ),  # -1: some have no label
    "untold": lambda a, b, w: losses.untold((a - b).square(), 1 - w, w > 0.5, 2.0),
}


def rows() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x1, noise = torch.randn(2, 8, 6, generator=g, dtype=torch.float64)
    return x1, x1 + 0.3 * noise, torch.rand(8, 5, generator=g, dtype=torch.float64)


def network() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(6, 5, dtype=torch.float64)


def one_step(name: str, x1: Tensor, x2: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    net = network()
    loss = LOSSES[name](net(x1), net(x2), weights)
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()]


def pushed(queue: Queue, start: int, stop: int) -> None:
    """Three pushes of `rows`' first part, of which this process has rows `start` to `stop`."""
    x1, x2, _ = rows()
    for x in (x1, x2, x1.flip(0)):
        queue.push(x[start:stop].float().requires_grad_())


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(4 * rank, 4 * rank + 4)
    result: dict[str, object] = {"world": world()}
    for name in LOSSES:
        loss, gradients = one_step(name, *(x[mine] for x in rows()))
        for tensor in (loss, *gradients):  # what data-parallel training does with gradients
            distributed.all_reduce(tensor)
            tensor /= 2
        result[name] = loss, gradients
    for size in (5, 20):
        torch.manual_seed(size)
        queue = Queue(size, 6)
        pushed(queue, mine.start, mine.stop)
        result[f"queue {size}"] = queue.state_dict()
    x = rows()[0][mine]
    result["gather"], result["sinkhorn"] = gather(x), losses.sinkhorn(functional.normalize(x, dim=1))
    torch.save(result, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes, which run this file, found; they are started once for all tests here."""
    folder: Path = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), folder], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for one in started:
            _, errors = one.communicate(timeout=120)
            assert one.returncode == 0, errors
    finally:
        for one in started:
            one.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.ddp
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_of_four_rows_are_one_of_eight(results, name):
    loss, gradients = one_step(name, *rows())
    assert (
        min(g.abs().max() for g in gradients[:1]) > 1e-3
    )  # biases may have none: these losses shift or scale them away
    for result in results:
        theirs, their_gradients = result[name]
        torch.testing.assert_close(theirs, loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.ddp
@pytest.mark.parametrize("size", [5, 20])
def test_every_process_queues_the_keys_of_all_in_their_order(results, size):
    """Also where a batch of all processes is larger than the queue (8 > 5), and where three go round its end (24 > 20)."""
    torch.manual_seed(size)
    alone = Queue(size, 6)
    pushed(alone, 0, 8)
    for result in results:
        torch.testing.assert_close(result[f"queue {size}"], alone.state_dict())


@pytest.mark.ddp
def test_gather_and_sinkhorn_know_the_rows_of_all(results):
    x = rows()[0]
    every = losses.sinkhorn(functional.normalize(x, dim=1))
    for rank, result in enumerate(results):
        assert result["world"] == (rank, 2)
        assert torch.equal(result["gather"], x)
        torch.testing.assert_close(result["sinkhorn"], every[4 * rank : 4 * rank + 4], rtol=1e-10, atol=0)


def test_alone_gather_is_the_tensor_itself():
    x = torch.randn(3, 2)
    assert gather(x) is x and world() == (0, 1)


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2])
