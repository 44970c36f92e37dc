"""Ways out, one file per backend; third parties add theirs by the entry point leangan.runtimes."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from leangan.errors import UsageError
from leangan.runtimes.base import Artifact, Covers, Runtime, Session
from leangan.runtimes.coreml_ import CoreML
from leangan.runtimes.executorch_ import ExecuTorch
from leangan.runtimes.hls4ml_ import Hls4ml
from leangan.runtimes.litert_ import LiteRT
from leangan.runtimes.ncnn_ import Ncnn
from leangan.runtimes.onnxruntime_ import ONNXRuntime
from leangan.runtimes.onnxruntime_gpu import ONNXRuntimeCUDA, ONNXRuntimeTensorRT
from leangan.runtimes.openvino_ import OpenVINO
from leangan.runtimes.torch_ import Torch, TorchInductor
from leangan.runtimes.torch_cuda import TorchCUDA

if TYPE_CHECKING:  # sessions run in processes that never import torch
    from leangan.generator import Generator


RUNTIMES: tuple[Runtime, ...] = (
    Torch(),
    TorchInductor(),
    ONNXRuntime(),
    OpenVINO(),
    LiteRT(),
    ExecuTorch(),
    Ncnn(),
    CoreML(),
    Hls4ml(),
    ONNXRuntimeCUDA(),
    ONNXRuntimeTensorRT(),
    TorchCUDA(),
)

__all__ = [
    "RUNTIMES",
    "Artifact",
    "Runtime",
    "Session",
    "available",
    "coverage",
    "fitting",
    "get",
    "known",
    "timed_here",
]


@functools.cache
def known() -> tuple[Runtime, ...]:
    """Ours, then those that installed packages bring; an entry point names a class."""
    return (*RUNTIMES, *(e.load()() for e in entry_points(group="leangan.runtimes")))


def get(name: str) -> Runtime:
    """The runtime of that name, whether it is installed or not.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    for runtime in known():
        if runtime.name == name:
            return runtime
    names = ", ".join(runtime.name for runtime in known())
    raise UsageError(f"There is no runtime {name!r}; choose from {names}.")


def fitting(generator: Generator, runtime: Runtime) -> Generator:
    """The generator in the form that the runtime's files can hold: of one size, for some."""
    if runtime.free_sizes:
        return generator
    from leangan.graph.sizes import fix_sizes

    return fix_sizes(generator)


def available() -> list[Runtime]:
    """Those that can be used on this machine as it is."""
    return [runtime for runtime in known() if runtime.missing() is None]


def timed_here() -> list[str]:
    """Names of those that run on this machine and whose time here says how fast they are."""
    return [runtime.name for runtime in available() if runtime.runs_here and runtime.timed]


def coverage(artifact: Artifact) -> list[str]:
    """What of a file is not computed in 8 bits, or not where it is meant to run, in sentences.

    Empty where all is, and for runtimes that do not tell.
    """
    runtime = get(artifact.runtime)
    return runtime.coverage(artifact) if isinstance(runtime, Covers) else []
