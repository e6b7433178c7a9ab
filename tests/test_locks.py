"""One owner at a time among processes; a dead owner holds nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mastlib.errors import InputError
from mastlib.locks import alone

HOLD = """
import pathlib, sys, time
from mastlib.locks import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
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
