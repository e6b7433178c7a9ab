"""One owner at a time among processes; a dead owner holds nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mastlib import locks
from mastlib.errors import InputError
from mastlib.locks import alone

HOLD = """
import pathlib, sys, time
from mastlib.locks import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

CHECK = """
import os, pathlib, sys, time
from mastlib.errors import InputError
from mastlib.locks import alone
with alone(pathlib.Path(sys.argv[1])) as held:
    child = os.fork() if "child" in sys.argv[2] else 0
    if "child" in sys.argv[2] and child == 0:
        time.sleep(60)
    print("held", child, flush=True)
    sys.stdin.readline()
    try:
        held.check()
    except InputError as error:
        print(error, flush=True)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock of tmp_path/thing."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "thing")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _no_endless_wait():
    def late(*_):
        raise TimeoutError("waited for a lock for 20 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_the_file_names_its_owner_and_goes_away(tmp_path):
    with alone(tmp_path / "deep" / "thing"):
        content = json.loads((tmp_path / "deep" / "thing.lock").read_text())
        assert content["pid"] == os.getpid()
        assert set(content) == {"host", "pid", "started"}
    assert os.listdir(tmp_path / "deep") == []


def test_an_error_inside_frees_the_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), alone(tmp_path / "thing"):
            raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_killed_owner_frees_the_lock_and_the_waiting_is_said_once(tmp_path, owner, capsys):
    timer = threading.Timer(0.3, owner.send_signal, [signal.SIGKILL])
    timer.start()
    begun = time.monotonic()
    with alone(tmp_path / "thing"):
        assert time.monotonic() - begun > 0.2
        assert owner.wait(5) == -signal.SIGKILL
        assert json.loads((tmp_path / "thing.lock").read_text())["pid"] == os.getpid()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"thing is being made by process {owner.pid} on ")


@pytest.mark.parametrize("why", ["stopped", "its child keeps the file open"])
def test_an_owner_without_a_sign_of_life_is_taken_over_and_learns_so(why, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "STALE", 1.0)
    command = [sys.executable, "-c", CHECK, str(tmp_path / "thing"), why]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline().split()
        assert first[0] == "held"
        process.send_signal(signal.SIGSTOP if why == "stopped" else signal.SIGKILL)
        begun = time.monotonic()
        with alone(tmp_path / "thing") as held:
            assert time.monotonic() - begun > 1.0
            held.check()
            if why == "stopped":  # its word comes from `check`, and the file of the new owner stays
                process.send_signal(signal.SIGCONT)
                assert process.communicate("\n")[0].startswith("thing was taken over by another process")
            else:
                os.kill(int(first[1]), signal.SIGKILL)
            held.check()
            assert json.loads((tmp_path / "thing.lock").read_text())["pid"] == os.getpid()
    waiting, going_on = capsys.readouterr().out.splitlines()
    assert f"process {process.pid} on " in waiting and f"no sign of life of process {process.pid} on " in going_on
    assert os.listdir(tmp_path) == []


def test_an_owner_that_beats_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE", 0.5)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "POLL", 0.05)
    order = []

    def wait():
        with alone(tmp_path / "thing"):
            order.append("second")

    with alone(tmp_path / "thing") as held:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(2)
        held.check()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_no_two_threads_are_inside_at_once(tmp_path):
    """Owners delete the file as they leave, while others wait for it or make it anew."""
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        for _ in range(25):
            with alone(tmp_path / "thing"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), alone(tmp_path / "file" / "thing"):
        pass
