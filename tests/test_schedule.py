"""When a book is ready: from what chapters took before, their missing runs, and how fast this machine is."""

from __future__ import annotations

import json
import time

import pytest

from mastlib import schedule
from mastlib.schedule import FRESH, QUICK, SHARE, Schedule, specs_of

TIMES = {
    "a": {FRESH: 100.0, SHARE: 1.0, QUICK: 10.0}, "b": {FRESH: 300.0, SHARE: 0.5, QUICK: 20.0},
    "c": {FRESH: 5.0, SHARE: 0.0, QUICK: 5.0},
}  # fmt: skip


@pytest.fixture
def missing(monkeypatch, tmp_path):
    """Runs of a and b, four each, of which these are missing; c has none. Times are shipped."""
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MASTLIB_REFERENCE", str(tmp_path))
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "times.json").write_text(json.dumps(TIMES))
    gone: set[tuple[str, int]] = set()
    runs = {name: {(name, i): (name, i) for i in range(4)} for name in "ab"}
    monkeypatch.setattr(schedule, "specs_of", lambda chapter, values: runs.get(chapter, {}))
    monkeypatch.setattr(schedule, "there", lambda spec: None if spec in gone else spec)
    return gone


def made():
    return Schedule("smoke", {name: {} for name in "abc"})


def test_chapters_take_between_quick_and_fresh_by_their_missing_runs(missing):
    assert made().seconds() == 35
    missing |= {("a", 0)}
    assert made().seconds() == pytest.approx(10 + 90 / 4 + 20 + 5)
    missing |= {("b", 0)}
    assert made().seconds(["b"]) == pytest.approx(20 + 280 / 2), "half of those that were made then"
    missing |= {(name, i) for name in "ab" for i in range(4)}
    assert made().seconds() == 405 and made().seconds(["b"]) == 300
    assert str(made()) == "3 chapters to execute, about 7 min"


def test_a_slower_machine_is_noticed(missing, monkeypatch):
    missing |= {(name, i) for name in "ab" for i in range(4)}
    plan, clock = made(), iter([0.0, 250.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with plan.executing("a"):
        missing -= {("a", i) for i in range(4)}
    assert plan.seconds() == pytest.approx(2.5 * 305)
    assert str(plan).startswith("2 chapters")


def test_times_of_chapters_are_kept_by_whether_their_runs_were_there(missing, tmp_path, monkeypatch):
    missing |= {(name, i) for name in "ab" for i in range(4)}
    missing -= {("b", 0)}
    seconds = iter(range(0, 6000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    for chapter in "abc":
        with made().executing(chapter):
            pass
    kept = json.loads((tmp_path / "outputs" / "smoke" / "times.json").read_text())
    assert kept["a"] == {FRESH: 7, SHARE: 1.0, QUICK: 10.0} and kept["c"] == {FRESH: 7, SHARE: 0.0, QUICK: 7}
    assert kept["b"] == {FRESH: 7, SHARE: 0.75, QUICK: 20.0}
    assert made().seconds(["c"]) == 7, "what was seen here counts more than what was shipped"


def test_a_chapter_that_failed_took_no_time(missing, tmp_path):
    with pytest.raises(ZeroDivisionError), made().executing("a"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "outputs" / "smoke").exists()


def test_what_was_never_seen_is_not_known(missing):
    plan = Schedule("smoke", {"new": {}, "c": {}})
    assert plan.seconds() is None and "is not known" in str(plan)
    plan.skip("new")
    assert plan.seconds() == 5


def test_the_runs_of_a_chapter_are_its_arms_with_its_seeds():
    values = {"tier": "smoke", "seeds": [3, 4], "host": "moco", "overrides": {}, "objects": 2}
    found = specs_of("08_why_transfer", values)
    assert {seed for _, seed in found} == {3, 4}
    assert found["spatial", 4].seed == 4 and found["spatial", 4].augmentations == "spatial"
    assert found["default, twin 1", 4].seed == 1004
    assert specs_of("01_images_and_tasks", {}) == {}
