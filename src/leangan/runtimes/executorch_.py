"""ExecuTorch with its XNNPACK delegate: phones and small CPUs, float32 and int8."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.files import atomic
from leangan.runtimes.base import Arrays, Artifact

if TYPE_CHECKING:
    from leangan.generator import Generator

_MODEL = "generator.pte"


class ExecuTorch:
    """ExecuTorch's portable kernels, and XNNPACK for all that it takes; one .pte file.

    Its Python session needs PyTorch, whose tensors it takes; on a phone nothing does.
    """

    name = "executorch"
    # A file plans its memory for the sizes it was made with: smaller ones run, larger ones not.
    free_sizes = False
    by_default = False
    runs_here = True
    timed = True

    def missing(self) -> str | None:
        """None when ExecuTorch is installed, else how to get it."""
        if importlib.util.find_spec("executorch"):
            return None
        return 'pip install "leangan[executorch]"'

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """XNNPACK computes in float32 and int8."""
        return ("int8",) if quantized else ("fp32",)

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.pte.

        In int8, each image is rounded over what it fills of the calibrated range: see
        executorch_int8.py.
        """
        if precision not in ("fp32", "int8"):
            raise LeanganError(
                f"ExecuTorch has no precision {precision!r} with XNNPACK; choose fp32 or int8."
            )
        from leangan.runtimes.executorch_int8 import (
            measured_ranges,
            outside_delegates,
            share_of_delegates,
        )

        settings: dict[str, Any] = {}
        if precision == "int8":
            generator = measured_ranges(generator)
            edge = _lower(generator)
            settings["int8_share"] = share_of_delegates(edge)
        else:
            edge = _lower(generator)
        settings["outside_delegates"] = outside_delegates(edge)
        with _as_sentence(generator.name), atomic(folder / _MODEL) as path:
            path.write_bytes(edge.to_executorch().buffer)
        return Artifact(self.name, precision, (folder / _MODEL,), settings)

    def open(self, artifact: Artifact, threads: int) -> ExecuTorchSession:
        """Load the file; the number of threads is one setting for the whole process."""
        return ExecuTorchSession(artifact, threads)

    def coverage(self, artifact: Artifact) -> list[str]:
        """As the file was made: what XNNPACK did not take."""
        outside = artifact.settings.get("outside_delegates")
        return [f"Not for XNNPACK: {outside}."] if outside else []


class ExecuTorchSession:
    """A loaded method."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import torch  # noqa: F401  the extension is linked against its libraries

        # executorch.runtime forwards to this, and imports all of ExecuTorch's compiler first.
        from executorch.extension.pybindings import _C

        _C._unsafe_reset_threadpool(threads)
        try:
            whole = _C.Verification.InternalConsistency
            self._program = _C._load_program(str(artifact.path), program_verification=whole)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise LeanganError(
                f"{artifact.path} cannot be opened by ExecuTorch, it is damaged or of another "
                f"version: {str(error).splitlines()[0]}"
            ) from error
        self._share: float | None = artifact.settings.get("int8_share")

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in inputs]
        # An output lies in the file's planned memory, which the next run overwrites.
        return [np.array(t.numpy()) for t in self._method(tensors)]

    def int8_share(self) -> float | None:
        """As the file was made: what XNNPACK was handed in 8 bits."""
        return self._share

    def layer_times(self) -> dict[str, float]:
        """Empty: the packaged runtime is built without its tracer."""
        return {}


def _lower(generator: Generator) -> Any:
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from leangan.graph.real_parts import complex_as_real

    # Static 8 bits are left out: a generator's layers put out floats.
    kinds = [ConfigPrecisionType.DYNAMIC_QUANT, ConfigPrecisionType.FP32]
    partitioner = XnnpackPartitioner(config_precisions=kinds)
    with _as_sentence(generator.name):
        program = complex_as_real(generator).program
        return to_edge_transform_and_lower(program, partitioner=[partitioner])


@contextlib.contextmanager
def _as_sentence(name: str) -> Iterator[None]:
    """Say what ExecuTorch cannot write in one line, and nothing else that it says."""
    from leangan.graph.capture import quiet

    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            yield
    except LeanganError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LeanganError(
            f"{name} cannot be written for ExecuTorch: {type(error).__name__}: "
            f"{lines[0] if lines else 'no message'} Choose another runtime."
        ) from error
