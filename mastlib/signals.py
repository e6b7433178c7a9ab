"""Requests to stop (Ctrl-C, a cluster's SIGTERM): noted when they come, obeyed where nothing is half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether the process was asked to stop: `number` is the signal's, or None."""

    def __init__(self) -> None:
        self.number: int | None = None

    def note(self, number: int) -> None:
        """The signal came. A second Ctrl-C does not wait."""
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        print(f"asked to stop ({signal.Signals(number).name}): saving after this step", flush=True)

    def obey(self) -> None:
        """Raise what the signal would have: KeyboardInterrupt, or SystemExit with 128 + its number. Nothing if there was none."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt("stopped on request; the next fit goes on from here")
        if self.number is not None:
            raise SystemExit(128 + self.number)


@contextlib.contextmanager
def noted(then: Callable[[], object] = lambda: None) -> Iterator[Asked]:
    """Within the block SIGINT and SIGTERM are noted, followed by `then()`, and nothing else; call `obey` where it may stop.

    Only Python's main thread can do this: in another one the block changes nothing.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        asked.note(number)
        then()

    before = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
