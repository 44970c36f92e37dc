"""ncnn: phones and small CPUs, float32 and half precision, by way of the converter pnnx."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leangan.errors import LeanganError
from leangan.files import atomic_folder
from leangan.runtimes.base import Arrays, Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from leangan.generator import Generator

_PARAM, _BIN = "generator.param", "generator.bin"
_MAGIC = "7767517"


class Ncnn:
    """ncnn on the CPU; an artifact is a text .param of layers and a .bin of their weights.

    ncnn has no batch axis: a session runs the images of a batch one after the other.
    """

    name = "ncnn"
    free_sizes = True
    by_default = False
    runs_here = True
    timed = True

    def missing(self) -> str | None:
        """None when ncnn and pnnx are installed, else how to get them."""
        if all(importlib.util.find_spec(name) for name in ("ncnn", "pnnx")):
            return None
        return 'pip install "leangan[ncnn]"'

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """In fp16 weights are stored in half precision, and CPUs that can compute in it do."""
        return () if quantized else ("fp32", "fp16")

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.param and generator.bin."""
        if precision not in ("fp32", "fp16"):
            raise LeanganError(f"ncnn has no precision {precision!r} here; choose fp32 or fp16.")
        with tempfile.TemporaryDirectory() as temporary:
            param, weights = _convert(generator, Path(temporary), precision)
            _refuse_unknown(generator.name, param)
            with atomic_folder(folder) as out:
                (out / _PARAM).write_text(param, encoding="utf-8")
                (out / _BIN).write_bytes(weights)
        return Artifact(self.name, precision, (folder / _PARAM, folder / _BIN))

    def open(self, artifact: Artifact, threads: int) -> NcnnSession:
        """Load both files."""
        return NcnnSession(artifact, threads)


class NcnnSession:
    """A loaded network, and the numbers of its inputs and outputs."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import ncnn

        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_bf16_storage = False
        half = artifact.precision == "fp16"
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        param, weights = artifact.files
        _check(param)
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise LeanganError(
                f"{param} and {weights.name} cannot be opened by ncnn: they are damaged, or do not "
                "belong together."
            )
        self._outputs = len(self._net.output_names())

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        arrays = [np.ascontiguousarray(x, dtype=np.float32) for x in inputs]
        images = [self._one(parts) for parts in zip(*arrays, strict=True)]
        return [np.stack(parts) for parts in zip(*images, strict=True)]

    def int8_share(self) -> float | None:
        """None: nothing runs in 8 bits."""
        return None

    def layer_times(self) -> dict[str, float]:
        """Empty: the packaged ncnn is built without its benchmark."""
        return {}

    def _one(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        import ncnn

        extractor = self._net.create_extractor()
        for number, part in enumerate(parts):
            # A copy, since ncnn wants each channel to begin at a multiple of 16 bytes.
            extractor.input(f"in{number}", ncnn.Mat(part).clone())
        results = []
        for number in range(self._outputs):
            failed, value = extractor.extract(f"out{number}")
            if failed:
                raise LeanganError(
                    f"ncnn fails on an input of shape {parts[0].shape}: it is too small for the "
                    "network, or there is not enough memory."
                )
            results.append(np.array(value))
        return results


def _convert(generator: Generator, folder: Path, precision: str) -> tuple[str, bytes]:
    """The text and the weights that pnnx makes of the generator."""
    import pnnx
    import torch

    from leangan.graph.capture import quiet
    from leangan.graph.real_parts import complex_as_real
    from leangan.graph.rewrite import views_as_reshapes

    real = complex_as_real(generator)
    if real is not generator and any(None in port.shape[1:] for port in generator.signature.inputs):
        raise LeanganError(
            f"{generator.name} has Fourier transforms of sizes that are free, which ncnn cannot "
            "compute. Choose the runtime litert, whose files have one size."
        )
    module = real.module()
    views_as_reshapes(module)
    first = generator.example({"N": 1})
    try:
        with quiet(), torch.no_grad():
            torch.jit.trace(module, first, check_trace=False).save(str(folder / "traced.pt"))
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LeanganError(f"{generator.name} cannot be traced for ncnn: {line}") from error
    command = [
        pnnx.EXEC_PATH,
        "traced.pt",
        f"inputshape={_shapes(first)}",
        f"inputshape2={_shapes(_other(generator))}",
        f"fp16={int(precision == 'fp16')}",
        f"ncnnparam={_PARAM}",
        f"ncnnbin={_BIN}",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    try:
        return (folder / _PARAM).read_text(encoding="utf-8"), (folder / _BIN).read_bytes()
    except OSError as error:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise LeanganError(
            f"pnnx cannot convert {generator.name} for ncnn: "
            f"{said[-1] if said else f'it ended with code {done.returncode}'}"
        ) from error


def _other(generator: Generator) -> tuple[Tensor, ...]:
    """Inputs of another size wherever one is free: pnnx takes what differs for variable."""
    from leangan.graph.rewrite import trace_inputs

    return tuple(x[:1] for x in trace_inputs(generator))


def _shapes(inputs: Sequence[Tensor]) -> str:
    return ",".join(f"{list(x.shape)}f32".replace(" ", "") for x in inputs)


def _refuse_unknown(name: str, param: str) -> None:
    """What pnnx has no ncnn layer for it writes down under PyTorch's name, and says nothing."""
    kinds = [line.split()[0] for line in param.splitlines()[2:] if line.strip()]
    foreign = sorted({kind for kind in kinds if not kind.isalnum()})
    if foreign:
        raise LeanganError(
            f"{name} has operators that ncnn has no layer for: {', '.join(foreign)}. "
            "Choose another runtime."
        )


def _check(param: Path) -> None:
    """Refuse a .param that was cut short, on which ncnn itself crashes."""
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()
    counts = lines[1].split() if len(lines) > 1 else []
    if not lines or lines[0].strip() != _MAGIC or len(counts) != 2 or not counts[0].isdecimal():
        raise LeanganError(f"{param} is no ncnn .param file, or it is damaged.")
    layers = [line for line in lines[2:] if line.strip()]
    if len(layers) != int(counts[0]):
        raise LeanganError(
            f"{param} is damaged: it announces {counts[0]} layers and has {len(layers)}."
        )
