"""A TorchScript archive: its code is its own, so it is opened with trust only.

torch.export does not take scripted modules, so it goes by way of ONNX, which they can be traced
to.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from leangan.errors import LeanganError, UnsafeFile, UsageError
from leangan.generator import Generator
from leangan.graph.capture import quiet
from leangan.sources import onnx_file
from leangan.sources.base import Request
from leangan.sources.ports import layout_of
from leangan.sources.probe import SPATIAL
from leangan.sources.tensors import is_torchscript

_OPSET = 17


def accepts(source: Any) -> bool:
    """Whether it names a TorchScript archive."""
    return (
        isinstance(source, str | Path) and Path(source).is_file() and is_torchscript(Path(source))
    )


def load(source: Any, request: Request) -> Generator:
    """Open the archive and trace it.

    Raises:
        UnsafeFile: `request.trust` is not given.
        UsageError: no example inputs.
        LeanganError: it is damaged, or holds an operator that ONNX or we do not have.
    """
    path = Path(source)
    request.only_generator(str(path))
    if not request.trust:
        raise UnsafeFile(
            f"{path} is a TorchScript archive, which runs its own code: say --trust (trust=True) "
            "if you trust whoever made the file, or save its state_dict() instead."
        )
    if request.example_inputs is None:
        raise UsageError(
            f"{path} does not tell the shape of its inputs: say it, for example "
            "--size 1x3x256x256 (example_inputs=)."
        )
    try:
        with quiet():
            module = torch.jit.load(str(path), map_location="cpu").eval().float()
    except Exception as error:  # whatever PyTorch's reader says of a damaged file
        raise LeanganError(f"{path} is damaged or cut short.") from error
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        file = Path(folder) / f"{path.stem}.onnx"
        _trace(module, request.example_inputs, file, path)
        return onnx_file.load(file, request)


def _trace(module: Any, examples: tuple[torch.Tensor, ...], file: Path, path: Path) -> None:
    names = [f"input_{i}" for i in range(len(examples))] if len(examples) > 1 else ["input"]
    free = {
        name: {
            axis: f"{letter}{axis}"
            for axis, letter in enumerate(layout_of(x.dim()))
            if letter == "N" or (letter in SPATIAL and x.shape[axis] > 1)
        }
        for name, x in zip(names, examples, strict=True)
    }
    said = io.StringIO()
    try:
        with quiet(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            torch.onnx.export(
                module,
                examples,
                str(file),
                dynamo=False,
                opset_version=_OPSET,
                input_names=names,
                dynamic_axes=free,
            )
    except Exception as error:  # whatever the exporter says of an operator
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LeanganError(f"{path} cannot be turned into a graph: {reason}") from error
