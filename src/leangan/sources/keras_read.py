"""The parts of a Keras file: its architecture as JSON, and a clean copy of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leangan.errors import LeanganError, UsageError
from leangan.sources import hdf5_copy

MOST_CONFIG = 64 * 2**20  # bytes; the largest known is under 2 MB
_MOST_RATIO = 1100  # see hdf5_copy


@dataclass(frozen=True)
class KerasFile:
    """What a file of a whole model holds."""

    config: dict[str, Any]
    """`class_name` and `config` of the outermost model."""
    weights: Path
    """What `model.load_weights` takes; it exists as long as the block of `opened` lasts."""


@contextmanager
def opened(path: Path, weights: Path | None) -> Iterator[KerasFile]:
    """Read a `.h5`, `.hdf5` or `.keras`, or the `.json` of an architecture with its `weights`.

    Raises:
        UsageError: weights and architecture are not given as they must be.
        LeanganError: the file is damaged, or holds weights and no architecture.
    """
    with tempfile.TemporaryDirectory(prefix="leangan-keras-") as folder:
        if path.suffix.lower() == ".json":
            if weights is None:
                raise UsageError(
                    f"{path} is the architecture alone; give its weights with --weights FILE.h5."
                )
            yield KerasFile(
                model_config(path.read_bytes(), path), _copied(weights, weights, Path(folder))
            )
            return
        if weights is not None:
            raise UsageError(f"{path} holds weights itself; --weights belongs to a .json.")
        # Before its zip archives Keras wrote HDF5 under the name of .keras, too.
        read = _zip_file if zipfile.is_zipfile(path) else _hdf5_file
        yield read(path, Path(folder))


def model_config(
    text: bytes | str, path: Path, made: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """The architecture in a JSON text, checked as far as its outermost form.

    Args:
        text: JSON.
        path: of the file, for errors.
        made: what stands for each dictionary, if not itself.

    Raises:
        LeanganError: it is none.
    """
    if len(text) > MOST_CONFIG:
        raise LeanganError(f"{path}: its architecture is too large to be one.")
    try:
        config = json.loads(text, object_hook=made)
    except (ValueError, RecursionError) as error:
        raise LeanganError(f"{path} is damaged: its architecture is no JSON.") from error
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise LeanganError(f"{path} is no Keras model: it describes no layers.")
    return config


def _hdf5_file(path: Path, folder: Path) -> KerasFile:
    import h5py

    copy = _copied(path, path, folder)
    with h5py.File(copy, "r") as file:
        config = file.attrs.get("model_config")
    if not isinstance(config, str | bytes):
        raise LeanganError(
            f"{path} holds weights and no architecture: save the whole model (model.save), or "
            "write model.to_json() into a file and load that with --weights."
        )
    return KerasFile(model_config(config, path), copy)


def _zip_file(path: Path, folder: Path) -> KerasFile:
    try:
        with zipfile.ZipFile(path) as archive:
            config = _member(archive, "config.json", MOST_CONFIG)
            most = path.stat().st_size * _MOST_RATIO
            inner = folder / "inside.h5"
            inner.write_bytes(_member(archive, "model.weights.h5", most))
    except KeyError as error:
        raise LeanganError(f"{path} is no Keras model: {error.args[0]}") from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise LeanganError(f"{path} is damaged: {error or type(error).__name__}.") from error
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or compressed oddly
        raise LeanganError(f"{path} is no Keras model: {error}.") from error
    return KerasFile(model_config(config, path), _copied(inner, path, folder))


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ValueError(f"its {name} is larger than it can be")
    with archive.open(info) as member:
        return member.read(most + 1)


def _copied(source: Path, named: Path, folder: Path) -> Path:
    """The clean copy that a process of its own makes; errors speak of the file `named`."""
    # Keras tells the two layouts of weights by the name.
    inner = named.suffix == ".keras" or named.name.endswith(".weights.h5")
    target = folder / ("clean.weights.h5" if inner else "clean.h5")
    seconds = 60 + source.stat().st_size / 10e6
    command = [sys.executable, "-P", hdf5_copy.__file__, str(source), str(target)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise LeanganError(f"{named} is damaged: reading it comes to no end.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if done.returncode > 0 and said else "the HDF5 library fails on it"
        kind = "zip archive or HDF5" if named.suffix == ".keras" else "HDF5"
        raise LeanganError(f"{named} is no usable {kind} file: {reason}.")
    return target
