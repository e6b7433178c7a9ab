"""Progress that reads well in a terminal, in a notebook and in a log file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

LOG_SECONDS = 15.0  # between two lines where the output is a file

_shown = True


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Within the block no bar is shown."""
    global _shown
    before, _shown = _shown, False
    try:
        yield
    finally:
        _shown = before


class _Lines:
    """A text stream on which each refresh of a bar becomes a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def bar(total: int, description: str, *, show: bool = True) -> tqdm[Any]:
    """A tqdm bar with ETA over `total` steps: redrawn in place in a terminal or notebook, a line every 15 s in a log."""
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        desc=description,
        disable=not (show and _shown),
        file=sys.stderr if interactive else _Lines(sys.stderr),
        mininterval=0.5 if interactive else LOG_SECONDS,
        maxinterval=LOG_SECONDS,
        leave=not interactive,
        dynamic_ncols=interactive,
        ncols=None if interactive else 100,
    )
