"""Nothing half-written, ever."""

from __future__ import annotations

import errno
import shutil
import types

import pytest

from leangan.errors import LeanganError
from leangan.files import atomic, atomic_folder


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with atomic(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_whole_and_keeps_what_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (out / "model").mkdir()
    (out / "model" / "old.bin").write_text("old")
    with atomic_folder(out) as folder:
        (folder / "report.json").write_text("{}")
        (folder / "model").mkdir()
        (folder / "model" / "new.bin").write_text("new")
        assert not (out / "report.json").exists()
    assert sorted(p.name for p in out.iterdir()) == ["mine.txt", "model", "report.json"]
    assert [p.name for p in (out / "model").iterdir()] == ["new.bin"]


def test_a_failed_folder_is_not_there(tmp_path):
    def write():
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(LeanganError, match="No room left"), atomic(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_in_a_temporary_folder_is_named_by_the_folder_that_people_know(tmp_path):
    with (
        pytest.raises(LeanganError, match=r"while writing .*/out\. "),
        atomic_folder(tmp_path / "out") as folder,
        atomic(folder / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writing", [atomic, atomic_folder])
def test_a_full_disk_is_noticed_behind_the_words_of_a_library(tmp_path, monkeypatch, writing):
    def write(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
        with writing(tmp_path / "a"):
            raise RuntimeError("iostream error")

    with pytest.raises(LeanganError, match="No room left"):
        write(free=100)
    with pytest.raises(RuntimeError, match="iostream error"):
        write(free=10**9)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LeanganError, match="Cannot write"), atomic(tmp_path / "file" / "a"):
        pass
