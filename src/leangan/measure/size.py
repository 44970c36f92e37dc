"""What a deployable model weighs on disk, as it is and zipped for a download."""

from __future__ import annotations

import tempfile
import zipfile

from leangan.runtimes.base import Artifact


def file_bytes(artifact: Artifact) -> int:
    """Bytes of all files of the artifact."""
    return sum(path.stat().st_size for path in artifact.files)


def zipped_bytes(artifact: Artifact) -> int:
    """Bytes of one zip of all files, deflate level 6, as most tools make them."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path in artifact.files:
                archive.write(path, path.name)
        return file.seek(0, 2)
