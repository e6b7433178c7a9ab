"""What an unfinished run goes on from: tensors and facts in one file, whole or not there, the last two kept."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mastlib.errors import InputError
from mastlib.files import atomic, disk

KEPT = 2  # the last one, and the one before it in case a machine dies while the last is being written


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """`tensors` and `facts` (what JSON holds) of `step` into `folder`; older ones than the last KEPT go.

    A file is safetensors with the facts in its header and the sha256 of the rest beside them. Raises InputError where
    the disk is full; what was there before is then still there.
    """
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    told = json.dumps(facts, sort_keys=True)
    with atomic(folder / f"{step:012d}.safetensors") as path:
        path.write_bytes(safetensors.torch.save(plain, {"facts": told, "sha256": digest(plain, told)}))
    with disk(folder):
        for old in found(folder)[:-KEPT]:
            old.unlink()


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the last checkpoint in `folder` that is whole; None where there is none.

    One that is damaged, or is something else, is passed over with a warning that names it.
    """
    for path in reversed(found(folder)):
        try:
            return read(path)
        except InputError as error:
            warnings.warn(f"{error}; going on without it", stacklevel=2)
    return None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of one checkpoint; raises InputError that names it where it is damaged or is none. Never unpickles."""
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            header = handle.metadata()
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if header["sha256"] != digest(tensors, header["facts"]):
            raise ValueError("its sha256 is not the recorded one")
        return tensors, json.loads(header["facts"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is no whole checkpoint ({error})") from None


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("*.safetensors") if re.fullmatch(r"\d{12}\.safetensors", path.name))


def digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """sha256 of names, types, shapes and bytes of `tensors` and of `facts`."""
    total = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by "parameter number.name"; numbers as tensors, which is how they come back."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give `optimizer`, made anew for the same parameters, the state that `optimizer_tensors` told."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        if value.shape == like.shape:  # in the parameter's layout, which decides how a kernel rounds
            value = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
