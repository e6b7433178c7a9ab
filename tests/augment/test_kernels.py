"""Compiled kernels against the same ones as written, the rows they may touch, and what a device would wait for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mastlib.augment import (
    HorizontalFlip,
    Invert,
    Op,
    Pipeline,
    Posterize,
    Rot90,
    SolarizeAdd,
    VerticalFlip,
    get_pipeline,
    list_presets,
)
from mastlib.augment import ops as ops_module
from mastlib.augment.kernels import _COMPILED, can_compile, compiled, kernel, on_rows, put
from mastlib.augment.pipeline import Params

OPS: list[Op] = [*get_pipeline("extended15", 16).ops, Invert(), SolarizeAdd(), VerticalFlip(), Rot90()]


def noise(n: int, side: int = 16) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(side + n))


def brighter(images: Tensor, by: Tensor) -> Tensor:
    return images + by[:, None, None, None]


# Compiled against as written.


@pytest.fixture(scope="module")
def compiler() -> None:
    if not can_compile():
        pytest.skip("torch.compile does not work on this machine; it needs a C++ compiler")


def check_agreement(name: str, got: Tensor, expected: Tensor) -> None:
    """The same views but for rounding; in `extended15` it carries a value over a threshold now and then."""
    error = (got - expected).abs().flatten(1)
    if name == "standard5":
        assert (error <= 1e-4).all()
    else:  # in few images and in few places of those
        assert error.amax(dim=1).quantile(0.9, interpolation="lower") <= 1e-4
        assert ((error > 1e-4).float().mean(dim=1) < 0.05).all()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["standard5", "extended15"])
def test_compiled_views_equal_those_as_written(name: str) -> None:
    """In one test for all sizes of batch, so that code made for one of them serves, or fails, the others."""
    pipeline = get_pipeline(name, 24)
    for n in (1, 2, 7, 40):
        images = noise(n, 24)
        for alone in (False, True):  # every op in one row only: a sub-batch of one
            params, _ = pipeline.sample(n, torch.Generator().manual_seed(n))
            if alone:
                chosen = (torch.arange(n) == n // 2)[:, None]
                params = {op.name: torch.where(chosen, op.sample(n), op.identity) for op in pipeline.ops}
            pipeline.compiled = False
            expected = pipeline.apply(images, params)
            pipeline.compiled = True
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own
                got = pipeline.apply(images, params)
            if alone:
                assert torch.equal(got[~chosen[:, 0]], images[~chosen[:, 0]])
            check_agreement(name, got, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile_there", [False, True])
@pytest.mark.parametrize("name", ["standard5", "extended15"])
def test_a_gpu_agrees_with_the_cpu(name: str, compile_there: bool) -> None:
    pipeline, images = get_pipeline(name, 24), noise(40, 24)
    params, _ = pipeline.sample(40, torch.Generator().manual_seed(5))
    expected = pipeline.apply(images, params)
    pipeline.compiled = compile_there
    got = pipeline.apply(images.cuda(), {key: rows.cuda() for key, rows in params.items()})
    check_agreement(name, got.cpu(), expected)


def test_switching_compilation_on_is_undone_also_where_something_fails() -> None:
    seen = []

    def fail(on: bool, inside: Callable[[], None] | None = None) -> None:
        with compiled(on):
            seen.append(_COMPILED.get())
            if inside:
                with pytest.raises(ValueError):
                    inside()
                seen.append(_COMPILED.get())  # what was before, not what is usual
            raise ValueError

    with pytest.raises(ValueError):
        fail(True, lambda: fail(False))
    assert seen == [True, False, True] and not _COMPILED.get()


def test_a_pipeline_that_fails_leaves_compilation_off() -> None:
    class Broken(Invert):
        def run(self, images: Tensor, params: Tensor) -> Tensor:
            assert _COMPILED.get()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Pipeline([Broken()], compiled=True).apply(noise(2), {"invert": torch.ones(2, 1)})
    assert not _COMPILED.get()


# Rows.


@pytest.mark.parametrize("chosen", [[], [2], [0, 3], [0, 1, 2, 3, 4]])
def test_on_a_cpu_only_the_rows_chosen_are_computed_and_overwritten(chosen: list[int]) -> None:
    images, by = noise(5), torch.arange(5.0)
    before, seen = images.clone(), []

    def change(some: Tensor, amounts: Tensor) -> Tensor:
        seen.extend(amounts.tolist())
        return brighter(some, amounts)

    rows = torch.zeros(5, dtype=torch.bool)
    rows[chosen] = True
    got = on_rows(images, rows, change, by)
    assert seen == [float(i) for i in chosen]
    expected = torch.where(rows[:, None, None, None], brighter(before, by), before)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("chosen", [[], [1], [4, 0], [0, 1, 2, 3, 4]])
def test_kernels_in_rows_leave_the_others_alone(chosen: list[int]) -> None:
    images, by, index = noise(5), torch.arange(5.0) + 1, torch.tensor(chosen, dtype=torch.long)
    expected = images.clone()
    expected[index] = brighter(expected[index], by[index])
    in_rows = kernel(brighter).in_rows
    assert torch.equal(in_rows(images.clone(), index, by), expected)
    assert torch.equal(put(images.clone(), index, brighter(images, by)[index]), expected)
    rows = torch.zeros(5, dtype=torch.bool).index_fill(0, index, True)
    assert torch.equal(on_rows(images.clone(), rows, kernel(brighter), by), expected)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_rows_not_applied_are_not_even_read(op: Op) -> None:
    """NaN in them would spread through whatever reads them."""
    images, params = noise(4), torch.where(torch.tensor([[True], [False]] * 2), op.sample(4), op.identity)
    poisoned = images.clone()
    poisoned[1::2] = torch.nan
    got = op.run(poisoned, params)
    assert got[1::2].isnan().all() and torch.equal(got[::2], op.run(images.clone(), params)[::2])


# A device without one: shapes, types and places of tensors are followed, values are not there to be looked at.


class NoTransfer(TorchDispatchMode):
    """Refuses what makes the host and a device wait for each other: copies between them, and values read."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        if moves and len(found) > 1:
            raise AssertionError(f"{function} between {' and '.join(sorted(found))}")
        return result


@contextmanager
def pretended_device() -> Iterator[None]:
    """Tensors on "cuda" that hold no values; constants cached on it are forgotten afterwards."""
    ops_module._moved.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        ops_module._moved.cache_clear()


def given_to_the_device(ops: tuple[Op, ...], n: int, whole: bool) -> tuple[Tensor, Params]:
    images = torch.empty(n, 3, 16, 16, device="cuda", dtype=torch.uint8 if whole else torch.float32)
    return images, {op.name: torch.empty(n, len(op.identity), device="cuda") for op in ops}


@pytest.mark.parametrize("name", list_presets())
def test_presets_never_make_the_host_wait(name: str) -> None:
    for exact, whole in ((True, False), (False, True)):
        pipeline = Pipeline(get_pipeline(name, 16).ops, exact=exact)
        color = "color" in pipeline.names
        with pretended_device():
            images, params = given_to_the_device(pipeline.ops, 3, whole)
            pipeline.apply(images, params)  # constants move once
            with NoTransfer():
                got = pipeline.apply(images, params)
                rows = {key: torch.stack([row, row]) for key, row in params.items()}
                views, moved = pipeline._render(images, rows, color_diff=color)
            assert got.device.type == views.device.type == "cuda" and got.dtype == views.dtype == torch.float32
            assert got.shape == (3, 3, 16, 16) and views.shape == (2, 3, 3, 16, 16) and (moved is not None) == color


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_no_augmentation_makes_the_host_wait(op: Op) -> None:
    with pretended_device():
        images, params = given_to_the_device((op,), 3, False)
        op.apply(images, params[op.name])
        with NoTransfer():
            assert op.apply(images, params[op.name]).device.type == "cuda"


def test_waiting_would_be_noticed() -> None:
    """Else the tests above could not fail."""
    with pretended_device(), NoTransfer():
        values = torch.empty(3, device="cuda")
        for look in (lambda: values.sum().item(), lambda: bool(values[0] > 0), values.tolist):
            with pytest.raises(DataDependentOutputException):
                look()
        with pytest.raises(DynamicOutputShapeException):
            values.nonzero()
        for move in (
            lambda: torch.empty(3).to("cuda"),
            lambda: values.cpu(),
            lambda: values.copy_(torch.empty(3)),
            lambda: torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        ):
            with pytest.raises(AssertionError, match="between cpu and cuda"):
                move()


def test_constants_move_to_a_device_once() -> None:
    with pretended_device():
        device = torch.empty(1, device="cuda").device
        first = ops_module.resident(HorizontalFlip.identity, device)
        with NoTransfer():
            assert ops_module.resident(HorizontalFlip.identity, device) is first
            with pytest.raises(AssertionError, match="between"):
                ops_module.resident(Posterize.identity, device)
    assert ops_module._moved.cache_info().currsize == 0
