"""Arithmetic on batches that can run as compiled code, and on some rows of a batch only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, update_wrapper

import torch
from torch import Tensor

_COMPILED = ContextVar("compiled", default=False)


class kernel:
    """A pure function of batches, `(N, ...)` first, that torch.compile turns into a few passes inside `compiled(True)`.

    Compiled once for all sizes, when first needed. A single image, or row, runs as it is written: torch.compile would make
    code for that case alone.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        update_wrapper(self, function)
        self.written = function

    def __call__(self, images: Tensor, params: Tensor, *more: Tensor | int) -> Tensor:
        given = (images, params, *more)
        several = all(len(each) > 1 for each in given if isinstance(each, Tensor))
        return (self._compiled if _COMPILED.get() and several else self.written)(*given)

    @cached_property
    def _compiled(self) -> Callable[..., Tensor]:
        return torch.compile(self.written, dynamic=True)

    @cached_property
    def in_rows(self) -> kernel:
        """(images, index, *more): `images` overwritten at `index` (n,), where rows are read, changed and put back at once."""

        def in_rows(images: Tensor, index: Tensor, *more: Tensor) -> Tensor:
            return put.written(images, index, self.written(*(each.index_select(0, index) for each in (images, *more))))

        # torch.compile keeps what it made by code object, and no more than a few things for each.
        in_rows.__code__ = in_rows.__code__.replace(co_name=f"{self.written.__name__}_in_rows")
        return kernel(in_rows)


@kernel
def put(images: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`images` overwritten at `index` (n,) by `rows` (n, ...)."""
    return images.index_copy_(0, index, rows)


def on_rows(images: Tensor, rows: Tensor, change: Callable[..., Tensor], *per_image: Tensor) -> Tensor:
    """`images` with `change(images, *per_image)` in the rows where `rows` (N,) is true; `images` may be overwritten.

    On the CPU only those rows are computed. Elsewhere all are: to know which they are, the host would have to wait.
    """
    if images.device.type != "cpu":
        return torch.where(rows[:, None, None, None], change(images, *per_image), images)
    index = rows.nonzero().squeeze(1)
    if len(index) == 0:
        return images
    if isinstance(change, kernel):
        return change.in_rows(images, index, *per_image)
    if len(index) == len(images):
        return change(images, *per_image)
    return put(images, index, change(*(each.index_select(0, index) for each in (images, *per_image))))


@contextmanager
def compiled(on: bool) -> Iterator[None]:
    """Kernels called inside run compiled, or as they are written."""
    token = _COMPILED.set(on)
    try:
        yield
    finally:
        _COMPILED.reset(token)


@cache
def can_compile(device: str = "cpu") -> bool:
    """Whether torch.compile works for `device` here (a CPU needs a C++ compiler); tried once, in some seconds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(lambda x: (x + 1).sin())(torch.zeros(8, device=device))
    except Exception:  # whatever it is that is missing
        return False
    return True
