"""Where an unfinished run stands, when that is saved, and how it is put back."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from mastlib.checkpoints import load_optimizer, optimizer_tensors
from mastlib.launch import Fabric, Follower
from mastlib.methods.base import Method
from mastlib.runs import RunWriter
from mastlib.signals import Asked

PARTS = ("method.", "optimizer.")
SHARE = 0.02  # of the time that saving may take, at most


@dataclass
class Place:
    """`epoch` epochs and `position` steps of the next one are done; `sums` of that one's values; `seconds` of training so far.

    Views, order and learning rate are functions of (seed, epoch, step) and all other state is in method and optimiser, so with
    these a run goes on as if it had not been ended.
    """

    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        """One more step, which had these values."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.position += 1

    def turn(self) -> None:
        """The epoch is over."""
        self.epoch, self.position, self.sums = self.epoch + 1, 0, {}


class Keeper:
    """Saves a run's state every `every` seconds and at the end of epochs, no more often than SHARE of the time allows; with 0
    after every step, whatever that takes."""

    def __init__(
        self,
        writer: RunWriter | Follower,
        method: Method,
        optimizer: torch.optim.Optimizer,
        every: float,
        fabric: Fabric | None = None,
    ) -> None:
        self.writer, self.method, self.optimizer, self.every = writer, method, optimizer, every
        self.fabric = fabric if fabric is not None and fabric.world_size > 1 else None
        self.saved, self.took = time.monotonic(), 0.0

    def restore(self) -> Place:
        """The place of an earlier process's last checkpoint, method and optimiser put back to it; the start if there is none."""
        found = self.writer.resume()
        if found is None:
            return Place()
        tensors, facts = found
        of = {part: {k.removeprefix(part): t for k, t in tensors.items() if k.startswith(part)} for part in PARTS}
        self.method.load_state_dict(of["method."], strict=True)
        load_optimizer(self.optimizer, of["optimizer."])
        return Place(**facts["place"])

    def due(self, asked: Asked | None = None, *, epoch_ended: bool = False) -> bool:
        """Whether to save now: it is time, by the first process's clock, or one of the processes was asked to stop."""
        since = time.monotonic() - self.saved
        mine = not self.every or (since >= (0 if epoch_ended else self.every) and since * SHARE >= self.took)
        number = asked.number if asked is not None else None
        if self.fabric is None:
            return mine or number is not None
        told = torch.tensor([mine and self.fabric.global_rank == 0, number or 0], device=self.fabric.device).int()
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        if asked is not None and told[1]:
            asked.number = int(told[1])
        return bool(told.any())

    def of_all(self, sums: dict[str, float]) -> dict[str, float]:
        """The mean over processes of each one's `sums`."""
        if self.fabric is None:
            return sums
        rows = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(rows)
        return dict(zip(sums, (rows / self.fabric.world_size).tolist(), strict=True))

    def save(self, place: Place, step: int) -> None:
        """Keep method, optimiser and `place`, after `step` steps. Raises InputError (full disk)."""
        begun = time.monotonic()
        place.sums = self.of_all(place.sums)  # from here on each process has the mean: sums of sums stay what they are
        state: dict[str, Tensor] = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        self.writer.checkpoint(step, state, {"place": asdict(place)})
        self.saved = time.monotonic()
        self.took = self.saved - begun
