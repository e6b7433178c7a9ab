"""What is written beside a result about where it was made."""

import platform
import shutil
import subprocess

import numpy as np
import pytest
import torch

from mastlib import provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_versions_are_those_that_run():
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__


def test_hardware_has_a_name():
    assert len(provenance.hardware()) > 2


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state_of_a_checkout(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    module = tmp_path / "package" / "provenance.py"
    module.write_text("a = 1")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.git_state() is None
    git(tmp_path, "init")
    assert provenance.git_state() is None  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    state = provenance.git_state()
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    module.write_text("a = 2")
    assert provenance.git_state() == {"commit": state["commit"], "dirty": True}
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "deeper" / "provenance.py"))
    assert provenance.git_state() is None  # some other project's checkout around an installed package


def test_without_git_there_is_no_state(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() is None
