"""Where a user's data lies: a path, or a name of the zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

from leangan import zoo
from leangan.errors import UsageError
from leangan.search.data import data_path


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    names = []

    def folder(name):
        names.append(name)
        return tmp_path

    monkeypatch.setattr(zoo, "folder", folder)
    return names


@pytest.mark.parametrize("data", ["zoo:photos", Path("zoo:photos")])
def test_a_zoo_name_is_fetched(fetched, tmp_path, data):
    assert data_path(data) == tmp_path
    assert fetched == ["photos"]


def test_a_path_is_left_alone(fetched, tmp_path):
    assert data_path(str(tmp_path / "x")) == tmp_path / "x"
    assert data_path(tmp_path) == tmp_path
    assert data_path("my/zoo:photos") == Path("my/zoo:photos")
    assert fetched == []


def test_none_stays_none(fetched):
    assert data_path(None) is None
    assert fetched == []


def test_an_unknown_zoo_name_is_refused():
    with pytest.raises(UsageError, match="photographs"):
        data_path("zoo:photographs")
