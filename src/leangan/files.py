"""Writing files so that nothing half-written is ever left behind."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leangan.errors import LeanganError


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file path beside `path`; rename it to `path` when the block succeeds.

    On any failure, Ctrl-C included, the temporary file is removed and `path` is left as it was.

    Raises:
        LeanganError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with _readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary = folder / path.name  # same name: some writers derive names from it
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; its files move into `path` when the block succeeds.

    Files that `path` already holds under other names are left alone.

    Raises:
        LeanganError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with _readable_os_errors(path):
        existed = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)  # mkdtemp's 0700 is for secrets, and this is a result
            if existed:
                for item in temporary.iterdir():
                    target = path / item.name
                    if target.is_dir() and item.is_dir():
                        shutil.rmtree(target)
                    os.replace(item, target)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _readable_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LeanganError(
                f"No room left on the disk while writing {path}. Nothing was written; "
                "free some space or choose another folder with -o."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise LeanganError(f"Cannot write {path}: {error.strerror}.") from error
        raise
