"""Read weights from a file without running any of it."""

from __future__ import annotations

import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from leangan.errors import LeanganError, UnsafeFile
from leangan.graph.capture import quiet

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_PICKLE = b"\x80"
"""How a pickle of protocol 2 or newer starts, which PyTorch before 1.6 wrote."""


def read_tensors(path: Path, trust: bool = False) -> Any:
    """Everything that a weights file holds, on the CPU.

    Args:
        path: a .safetensors file, or anything that `torch.save` wrote, in its present or older
            formats, from whatever device.
        trust: also unpickle objects, which runs whatever code the file asks for.

    Returns:
        What was saved: usually a dictionary, nested or not; with `trust` possibly an nn.Module.

    Raises:
        UnsafeFile: it holds more than weights, and `trust` is not given.
        LeanganError: there is no such file, it is no weights file, or it is damaged.
    """
    if path.is_dir():
        raise LeanganError(f"{path} is a folder; name the weights file in it.")
    if not path.exists():
        raise LeanganError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise LeanganError(f"{path} cannot be read: {error.strerror}.") from error
    if not start:
        raise LeanganError(f"{path} is empty.")
    if path.suffix == ".safetensors" or start[8:] == b"{":  # a length, then JSON
        return _read_safetensors(path)
    if not (start[:1] == _PICKLE or start[:2] == b"PK" or _is_tar(path)):
        raise LeanganError(
            f"{path} is no weights file: it is neither a PyTorch nor a .safetensors file."
        )
    return _read_torch(path, trust)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise LeanganError(f"{path} is damaged or cut short, or no safetensors file.") from error


def _read_torch(path: Path, trust: bool) -> Any:
    if is_torchscript(path):
        raise LeanganError(
            f"{path} is a TorchScript archive, which holds code beside its weights: save the "
            "network's state_dict() with torch.save instead."
        )
    try:
        with quiet(), _classes_found_from_here(trust):
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except (ImportError, AttributeError) as error:
        # Only unpickling with trust imports anything.
        raise LeanganError(
            f"{path} needs code that cannot be imported here ({error}); run leangan where "
            "that code lies, or with PYTHONPATH set to its folder."
        ) from error
    except pickle.UnpicklingError as error:
        message = str(error)
        forbidden = _GLOBAL.search(message)
        if not trust and forbidden:
            raise UnsafeFile(
                f"{path} holds {forbidden[1]} beside its weights, and opening that can run any "
                "code: say --trust (trust=True) if you trust whoever made the file."
            ) from error
        raise LeanganError(f"{path} is damaged, cut short, or no weights file.") from error
    except RuntimeError as error:
        if "tar" in str(error) and not trust:
            raise UnsafeFile(
                f"{path} has PyTorch's oldest format, which can run any code when it is opened: "
                "say --trust (trust=True) if you trust whoever made the file."
            ) from error
        raise LeanganError(f"{path} is damaged or cut short.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise LeanganError(f"{path} is damaged or cut short ({type(error).__name__}).") from error


@contextmanager
def _classes_found_from_here(trust: bool) -> Iterator[None]:
    """Let a trusted pickle import from the working folder, as `python` itself would."""
    here = str(Path.cwd())
    if trust:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if trust:
            sys.path.remove(here)


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except OSError:
        return False


def is_torchscript(path: Path) -> bool:
    """Whether it is an archive that torch.jit.save wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
