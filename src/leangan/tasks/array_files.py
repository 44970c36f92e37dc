"""Inputs of any kind from NumPy files."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.generator import Port
from leangan.tasks.calibration import describe


def list_arrays(source: Path) -> list[Path]:
    """The .npy and .npz files of a folder and its direct subfolders, sorted; a file is itself.

    Raises:
        LeanganError: there is no such file or folder, or no array in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise LeanganError(f"There is no file or folder {source}.")
    found = [*source.glob("*"), *source.glob("*/*")]
    files = sorted(f for f in found if f.suffix.lower() in (".npy", ".npz") and f.is_file())
    if not files:
        raise LeanganError(f"Folder {source} holds no .npy or .npz file.")
    return files


def read_arrays(path: Path, ports: Sequence[Port]) -> list[tuple[Tensor, ...]]:
    """The inputs that a file holds, one tuple for each row of its batch.

    Args:
        path: .npy for a generator of one input; .npz with one array for each input, under the
            input's name (under any name when there is one input).
        ports: the inputs. A missing batch axis is added; a batch that the port fixes is kept
            together.

    Raises:
        LeanganError: names the file: damaged, pickled objects, other names, wrong shape, arrays
            with different numbers of rows.
    """
    arrays = _load(path)
    names = [port.name for port in ports]
    if len(ports) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if set(arrays) != set(names):
        raise LeanganError(
            f"{path} holds the arrays {', '.join(arrays) or 'none'}; the generator's inputs are "
            f"{', '.join(names)}: give an .npz file with one array under each of these names."
        )
    parts = [_rows(path, port, arrays[port.name]) for port in ports]
    if len({len(p) for p in parts}) != 1:
        raise LeanganError(f"The arrays of {path} differ in their number of rows.")
    return list(zip(*parts, strict=True))


def fit_sizes(
    rows: tuple[Tensor, ...], ports: Sequence[Port], rng: random.Random
) -> tuple[Tensor, ...]:
    """Cut free sizes down to what the ports take.

    Height, width and time become multiples; time, which may be minutes, is at most the typical
    length, from a random start that all inputs share.
    """
    windows: dict[str, tuple[int, int]] = {}
    fitted = []
    for port, tensor in zip(ports, rows, strict=True):
        for axis, letter in enumerate(port.layout):
            if letter not in "HWT" or port.shape[axis] is not None:
                continue
            if letter not in windows:
                size, multiple = tensor.shape[axis], port.multiple_of(axis)
                most = min(size, port.typical[axis]) if letter == "T" else size
                length = most // multiple * multiple or size  # too short: the check names it
                windows[letter] = (rng.randint(0, size - length), length)
            start, length = windows[letter]
            if start + length <= tensor.shape[axis]:
                tensor = tensor.narrow(axis, start, length)
        fitted.append(tensor.contiguous())
    return tuple(fitted)


def _load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name, never unpickling anything."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise LeanganError(
            f"{path} is no .npy or .npz file of plain numbers, or it is damaged."
        ) from error


def _rows(path: Path, port: Port, array: np.ndarray) -> list[Tensor]:
    if array.dtype.kind not in "fiub" or not array.size:
        raise LeanganError(
            f"{path}: the array for {port.name!r} is of type {array.dtype} and shape "
            f"{array.shape}; numbers are wanted."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    batched = port.layout.startswith("N")
    if batched and tensor.ndim == len(port.layout) - 1:
        tensor = tensor[None]
    rows = (port.shape[0] or 1) if batched else 1
    sizes_agree = tensor.ndim == len(port.layout) and all(
        fixed is None or size == fixed
        for letter, size, fixed in zip(port.layout, tensor.shape, port.shape, strict=True)
        if letter != "N"
    )
    if not sizes_agree or (batched and len(tensor) % rows):
        raise LeanganError(
            f"{path} has shape {array.shape}, which input {port.name!r} cannot take: it wants "
            f"{describe(port)}."
        )
    return list(tensor.split(rows)) if batched else [tensor]
