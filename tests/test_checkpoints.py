"""Checkpoints: whole or not there, the last two kept, optimisers that go on bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mastlib import checkpoints
from mastlib.errors import InputError
from mastlib.methods import build_method
from mastlib.optim import build_optimizer
from mastlib.spec import RunSpec

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "none": torch.empty(0, 4), "half": torch.ones(3).bfloat16(),
}  # fmt: skip


def test_what_is_saved_comes_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    for step in (3, 12, 20):
        checkpoints.save(tmp_path, step, {**TENSORS, "step": torch.tensor(step)}, {"epoch": step, "seconds": 0.1})
    assert [path.stem.lstrip("0") for path in checkpoints.found(tmp_path)] == ["12", "20"]
    found = checkpoints.newest(tmp_path)
    assert found is not None
    tensors, facts = found
    assert facts == {"epoch": 20, "seconds": 0.1} and int(tensors["step"]) == 20
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_a_changed_byte_is_noticed_and_the_checkpoint_before_is_taken(tmp_path: Path, place: float) -> None:
    large = {"large": torch.randn(4000)}
    for step in (1, 2):
        checkpoints.save(tmp_path, step, large, {"epoch": step})
    path = checkpoints.found(tmp_path)[-1]
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{path} is no whole checkpoint"):
        found = checkpoints.newest(tmp_path)
    assert found is not None and found[1] == {"epoch": 1}


def test_a_cut_file_and_foreign_files_do_not_count(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, TENSORS, {})
    path = checkpoints.found(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "other.safetensors").write_bytes(b"")
    (tmp_path / f"{2:012d}.safetensors").write_bytes(safetensors.torch.save(TENSORS))  # without the header
    with pytest.warns(UserWarning, match="is no whole checkpoint") as warned:
        assert checkpoints.newest(tmp_path) is None
    assert [str(one.message).partition(" is no whole checkpoint")[0] for one in warned] == [
        str(tmp_path / f"{step:012d}.safetensors") for step in (2, 1)
    ]


class Planted:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


def test_a_pickle_under_a_checkpoint_s_name_is_refused_and_never_opened_as_one(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, TENSORS, {"epoch": 1})
    pickled, torched = tmp_path / f"{2:012d}.safetensors", tmp_path / f"{3:012d}.safetensors"
    pickled.write_bytes(pickle.dumps(Planted()))
    torch.save(Planted(), torched)
    with pytest.warns(UserWarning, match="is no whole checkpoint") as warned:
        found = checkpoints.newest(tmp_path)
    assert found is not None and found[1] == {"epoch": 1}
    assert [str(one.message).partition(" is no whole checkpoint")[0] for one in warned] == [str(torched), str(pickled)]


def test_a_failed_write_names_the_file_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tmp_path, 1, TENSORS, {"epoch": 1})

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"000000000002.safetensors: No space left"):
        checkpoints.save(tmp_path, 2, TENSORS, {"epoch": 2})
    found = checkpoints.newest(tmp_path)
    assert found is not None and found[1] == {"epoch": 1}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_an_optimiser_made_anew_goes_on_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, projector=(8, 8), image_size=16, optimizer=optimizer, epochs=20,
        images=64, batch_size=32,
    )  # fmt: skip

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        method = build_method(spec, ("crop",))
        return method, build_optimizer(method, spec)

    def step(method: torch.nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
        g = torch.Generator().manual_seed(number)
        for p in method.parameters():
            p.grad = torch.randn(p.shape, generator=g)
        opt.step()

    method, opt = made()
    for number in range(3):
        step(method, opt, number)
    checkpoints.save(tmp_path, 3, {**checkpoints.optimizer_tensors(opt)}, {})
    weights = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    other, anew = made()
    other.load_state_dict(weights)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    checkpoints.load_optimizer(anew, found[0])
    for number in (3, 4):
        step(method, opt, number)
        step(other, anew, number)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), other.parameters(), strict=True))
