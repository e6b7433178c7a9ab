"""In a log, each refresh is a line; nothing is drawn over."""

import io
import sys

from mastlib.progress import bar


def test_a_log_gets_lines_without_carriage_returns(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with bar(3, "training") as shown:
        for _ in range(3):
            shown.update()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and lines and "training: 100%" in lines[-1]


def test_silence_when_asked(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with bar(3, "training", show=False) as shown:
        shown.update()
    assert log.getvalue() == ""
