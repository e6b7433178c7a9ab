"""Tables kept by all that went into them: read back to the last bit, made anew when anything changed."""

import math

import pandas as pd
import pytest

from mastlib.errors import InputError
from mastlib.remembered import remembered

TABLE = pd.DataFrame({"arm": ["a", "None"], "value": [0.1 + 0.2, math.nan], "n": [3, 4]})


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    times = []

    def make():
        times.append(1)
        return TABLE

    def ask(name="table", subject="run", code="mastlib.stats", **settings):
        before = len(times)
        found = remembered(name, subject, make, code=code, **settings)
        return found, len(times) - before

    return ask


def test_a_table_is_made_once_and_read_back_to_the_last_bit(made):
    for times in (1, 0):
        found, asked = made()
        assert asked == times
        pd.testing.assert_frame_equal(found, TABLE, check_exact=True)


@pytest.mark.parametrize("change", [{"name": "other"}, {"subject": "other"}, {"code": "mastlib.losses"}, {"images": 3}])
def test_what_goes_into_a_table_is_part_of_its_key(made, change):
    assert made()[1] == 1
    assert made(**change)[1] == 1
    assert made(**change)[1] == made()[1] == 0


def test_a_failed_measurement_leaves_nothing(made, tmp_path):
    with pytest.raises(ZeroDivisionError):
        remembered("table", "run", lambda: TABLE.assign(value=1 / 0), code="mastlib.stats")
    assert not list(tmp_path.rglob("*.json"))


def test_another_name_is_refused(made):
    with pytest.raises(InputError, match="name = '../a' cannot be used"):
        made(name="../a")


def test_a_table_that_was_shipped_is_read_and_not_made(made, monkeypatch, tmp_path):
    made()
    (tmp_path / "laptop").mkdir()
    (tmp_path / "measured").rename(tmp_path / "laptop" / "measured")
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path))
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "elsewhere"))
    found, asked = made()
    assert asked == 0
    pd.testing.assert_frame_equal(found, TABLE, check_exact=True)
    assert made(images=3)[1] == 1
