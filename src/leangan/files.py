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

_FULL = 64 * 1024
"""Fewer free bytes are a full disk: writers stop within one buffer of the end."""


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
            with _full_disk_noticed(folder):
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
            with _full_disk_noticed(temporary):
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
def _full_disk_noticed(folder: Path) -> Iterator[None]:
    """Writers in C++ say "iostream error" and the like: look at the disk before it is cleaned."""
    try:
        yield
    except RuntimeError as error:
        if shutil.disk_usage(folder).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


@contextmanager
def _readable_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence."""
    try:
        yield
    except (OSError, LeanganError) as error:
        # A file within a temporary folder failed: what people know is the folder's own name.
        cause = error if isinstance(error, OSError) else error.__cause__
        refused = cause.errno if isinstance(cause, OSError) else None
        if refused == errno.ENOSPC:
            raise LeanganError(
                f"No room left on the disk while writing {path}. Nothing was written; free some "
                "space, or choose another folder with -o (or TMPDIR for temporary files)."
            ) from cause
        if refused in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            assert isinstance(cause, OSError)
            raise LeanganError(f"Cannot write {path}: {cause.strerror}.") from cause
        raise
