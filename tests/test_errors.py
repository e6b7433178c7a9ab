"""One line that names the parameter, its value and what is accepted, whatever the value is."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from mastlib.errors import InputError, check_choice, check_float, check_int, refuse

NO_NUMBERS = [
    None,
    "3",
    True,
    [3],
    np.array([3]),
    np.array([1, 2]),
    torch.tensor([1, 2]),
    pd.Series([1, 2]),
    1j,
    np.True_,
]


def test_the_message_is_one_short_line_for_any_value():
    for value in ["text", np.eye(40), pd.DataFrame({"a": [1, 2]}), torch.zeros(30, 30), "x" * 10_000, "a\nb"]:
        message = str(refuse("images", value, "a number"))
        assert "\n" not in message
        assert message.startswith("images = ")
        assert message.endswith("accepted: a number")
        assert len(message) < 300


def test_it_is_a_value_error_and_ipython_shows_the_sentence_alone():
    error = refuse("seed", -1, "0 or more")
    assert isinstance(error, ValueError)
    assert error._render_traceback_() == ["InputError: seed = -1 cannot be used; accepted: 0 or more"]


def test_integers():
    assert check_int("n", 3, 0) == 3
    assert check_int("n", 3, 3, 3) == 3
    assert type(check_int("n", np.int64(3), 0)) is int
    for value in [*NO_NUMBERS, 3.0, -1, 8, Fraction(3)]:
        with pytest.raises(InputError, match=r"^n = .* accepted: an integer from 0 to 7$"):
            check_int("n", value, 0, 7)
    with pytest.raises(InputError, match="an integer of at least 0"):
        check_int("n", -1, 0)


def test_numbers():
    assert check_float("x", 0.5, 0, 1) == 0.5
    assert type(check_float("x", 1, 0, 1)) is float
    assert check_float("x", np.float32(0.5), 0) == 0.5
    for value in [*NO_NUMBERS, float("nan"), float("inf"), -0.1, 1.1, 10**400]:
        with pytest.raises(InputError, match=r"^x = .* accepted: a number from 0 to 1$"):
            check_float("x", value, 0, 1)
    for value in [float("inf"), float("nan"), 10**400, -1]:
        with pytest.raises(InputError, match="a number of at least 0"):
            check_float("x", value, 0)


def test_minus_zero_is_zero():
    assert str(check_float("x", -0.0, 0)) == "0.0"


def test_choices():
    assert check_choice("c", "a", ["a", "b"]) == "a"
    assert type(check_choice("c", np.str_("a"), ["a", "b"])) is str
    assert check_choice("p", 2, (1, 2)) == 2
    assert check_choice("flag", False, (False, True)) is False
    for value in ["c", "A", None, ["a"], np.array(["a", "b"]), {}]:
        with pytest.raises(InputError, match=r"^c = .* accepted: a, b$"):
            check_choice("c", value, iter(["a", "b"]))
    for value in [True, 1.0, "1"]:
        with pytest.raises(InputError):
            check_choice("p", value, (1, 2))
    for value in [0, 1, "True"]:
        with pytest.raises(InputError):
            check_choice("flag", value, (False, True))
