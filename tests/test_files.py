"""Files are written whole or not at all, and folders that cannot serve are said in one line."""

import errno
import os
import resource

import pytest

from mastlib.errors import InputError
from mastlib.files import atomic, data_dir, disk, outputs_dir, write_text


def test_the_path_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["a.txt"]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_takes_no_more_leaves_the_old_file(tmp_path):
    """A real refusal of the system: files may not grow beyond 64 KiB here."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*a\.txt"):
            write_text(path, "x" * 2**17)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: No space left on device"):
        write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "folder", "x")


def test_disk_names_the_file_and_lets_other_errors_pass(tmp_path):
    with pytest.raises(InputError, match=r"cannot write b: .*[Nn]o space"), disk("b"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyError), disk("b"):
        raise KeyError


def test_outputs_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "deep" / "out"))
    assert outputs_dir() == tmp_path / "deep" / "out"
    assert outputs_dir().is_dir()
    assert os.listdir(outputs_dir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="MASTLIB_OUTPUTS"):
        outputs_dir()


def test_data_needs_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTLIB_DATA", str(tmp_path))
    with pytest.raises(InputError, match="manifest"):
        data_dir()
    (tmp_path / "manifest.json").write_text("{}")
    assert data_dir() == tmp_path
