"""Bad input, said in one line: the parameter, its value, what is accepted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Something a user gave cannot be used; the message is one line that names it and says what is accepted."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: a reader of a chapter sees the sentence, not our call stack.
        return [f"InputError: {self}"]


def refuse(name: str, value: object, accepted: str) -> InputError:
    """The error for parameter `name` with `value`: `raise refuse("batch_size", 0, "an integer from 2 to 65536")`."""
    text = re.sub(r"\s*\n\s*", " ", repr(value))  # an array's text has several lines
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return InputError(f"{name} = {text} cannot be used; accepted: {accepted}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """The one of `choices` that `value` is, else InputError; 1.0 and True are not 1."""
    options = list(choices)
    for option in options:
        same_type = isinstance(value, type(option)) and isinstance(value, bool) == isinstance(option, bool)
        if same_type and value == option:
            return option
    raise refuse(name, value, ", ".join(map(str, options)))


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` if it is an integer in [low, high] (a bool or a float such as 3.0 is not), else InputError."""
    number = isinstance(value, Integral) and not isinstance(value, bool)
    if not number or value < low or (high is not None and value > high):
        raise refuse(
            name, value, f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        )
    return int(value)


def check_float(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value` as float if it is a finite number in [low, high] (a bool is not), else InputError."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise refuse(
            name, value, f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        )
    return number + 0.0  # -0.0 becomes 0.0
