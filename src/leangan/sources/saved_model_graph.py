"""A SavedModel that tells no layers: TensorFlow turns its graph into ONNX, in a process of its own.

A graph of TensorFlow may hold operators that read and write files, and TensorFlow runs some of
them to find constants, so this is done with trust only.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from leangan.errors import BackendMissing, LeanganError, UnsafeFile
from leangan.generator import Generator
from leangan.sources import onnx_file
from leangan.sources.base import Request
from leangan.sources.saved_model_keras import meta_graph

_OPSET = 17
_USUAL = "serving_default"


def load_graph(folder: Path, request: Request) -> Generator:
    """Convert the graph and read what comes out.

    Raises:
        UnsafeFile: `request.trust` is not given.
        BackendMissing: TensorFlow or tf2onnx is not installed.
        LeanganError: it cannot be converted, or holds an operator that is not read.
    """
    if not request.trust:
        raise UnsafeFile(
            f"{folder} tells no layers of Keras 2 and is read as a graph of TensorFlow, which may "
            "read and write files when it runs: say --trust (trust=True) if you trust whoever "
            "made it."
        )
    if any(importlib.util.find_spec(name) is None for name in ("tensorflow", "tf2onnx")):
        raise BackendMissing(
            f"{folder} tells no layers of Keras 2; reading it as a graph needs TensorFlow and "
            "tf2onnx; type: pip install 'leangan[tensorflow]'"
        )
    with tempfile.TemporaryDirectory(prefix="leangan-") as place:
        file = Path(place) / f"{folder.resolve().name}.onnx"
        _convert(folder, _signature(folder), file)
        return onnx_file.load(file, request)


def _signature(folder: Path) -> str:
    """The function that the graph is known by: the usual one, or the only one."""
    try:
        names = [entry.text(1) for entry in meta_graph(folder).messages(5)]
    except ValueError as error:
        raise LeanganError(f"{folder} is damaged: {error}.") from error
    names = [name for name in names if not name.startswith("__")]
    if _USUAL in names:
        return _USUAL
    if len(names) != 1:
        others = f", but {', '.join(names)}" if names else ""
        raise LeanganError(
            f"{folder} has no signature {_USUAL!r}{others}: save it again with "
            f"tf.saved_model.save(module, folder, signatures={{{_USUAL!r}: function}})."
        )
    return names[0]


def _convert(folder: Path, signature: str, target: Path) -> None:
    command = [sys.executable, "-P", "-m", "tf2onnx.convert", "--saved-model", str(folder)]
    command += ["--signature_def", signature, "--opset", str(_OPSET), "--output", str(target)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        env={**os.environ, **quiet},
    )
    if done.returncode or not target.is_file():
        said = done.stderr.strip().splitlines()
        reason = said[-1] if done.returncode > 0 and said else "the process ended"
        raise LeanganError(f"{folder} cannot be turned into ONNX by tf2onnx: {reason}")
