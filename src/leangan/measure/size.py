"""What a deployable model weighs on disk, as it is and zipped for a download."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from leangan.runtimes.base import Artifact


def file_bytes(artifact: Artifact) -> int:
    """Bytes of all files of the artifact."""
    return sum(path.stat().st_size for path, _ in _files(artifact))


def zipped_bytes(artifact: Artifact) -> int:
    """Bytes of one zip of all files, deflate level 6, as most tools make them."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path, name in _files(artifact):
                archive.write(path, name)
        return file.seek(0, 2)


def _files(artifact: Artifact) -> Iterator[tuple[Path, Path]]:
    """Each file and its name beside the others; a folder gives what is in it."""
    for path in artifact.files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield file, file.relative_to(path.parent)
