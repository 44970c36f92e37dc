"""LiteRT, once TensorFlow Lite: one .tflite file for phones and small computers."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.files import atomic
from leangan.runtimes.base import Arrays, Artifact
from leangan.runtimes.litert_file import (
    halve,
    int8_share,
    name_ports,
    outside_gpu,
    outside_int8,
    pack,
    ports,
    tidy,
    unpack,
)
from leangan.runtimes.litert_ports import byte_ports
from leangan.runtimes.litert_transposed import fuse_transposed, transposed_kernels
from leangan.runtimes.onnx_file import port_names

if TYPE_CHECKING:
    from leangan.generator import Generator

_MODEL = "generator.tflite"
_BYTES = "int8-io"
"""As int8, with all ports in 8 bits."""
_PRECISIONS = ("fp32", "fp16", "int8", _BYTES)


class LiteRT:
    """LiteRT's interpreter on the CPU; an artifact is one .tflite file of one size."""

    name = "litert"
    free_sizes = False
    by_default = False
    runs_here = True
    timed = True

    def missing(self) -> str | None:
        """None when both the converter and the interpreter are installed, else how to get them."""
        packages = ("litert_torch", "ai_edge_litert")
        found = all(importlib.util.find_spec(package) for package in packages)
        return None if found else 'pip install "leangan[litert]"'

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Weights in half are computed with as float32 on most CPUs, but the file is half."""
        return ("int8",) if quantized else ("fp32", "fp16")

    def on_request(self, *, quantized: bool) -> tuple[str, ...]:
        """Ports in 8 bits cost quality, and are for programs that have bytes at hand."""
        return (_BYTES,) if quantized else ()

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.tflite, laid out as phones like it: NHWC inside, no free sizes.

        Its ports keep the names, order and layout of the signature. In an int8 file, those that
        the generator rounds first are int8 themselves, in an int8-io file all are; a session
        takes float32 all the same.

        Raises:
            LeanganError: LiteRT has no such precision, no form for an operator, or a port whose
                range is not known would have to be in 8 bits.
        """
        if precision not in _PRECISIONS:
            raise LeanganError(
                f"LiteRT has no precision {precision!r}; choose from {', '.join(_PRECISIONS)}."
            )
        model = unpack(to_tflite(generator))
        if precision == "fp16":
            halve(model)
        if precision == _BYTES:
            if not generator.quantized:
                raise LeanganError(f"{generator.name} is float; quantize it before {_BYTES}.")
            byte_ports(model, generator.signature.inputs, generator.signature.outputs)
        with atomic(folder / _MODEL) as temporary:
            temporary.write_bytes(pack(model))
        return Artifact(self.name, precision, (folder / _MODEL,))

    def open(self, artifact: Artifact, threads: int) -> LiteRTSession:
        """Load the file and give its memory out."""
        return LiteRTSession(artifact.path, threads)

    def coverage(self, artifact: Artifact) -> list[str]:
        """Read from the file, by the kinds of its operators."""
        data = artifact.path.read_bytes()
        floating = outside_int8(data) if artifact.in_8_bits else ""
        on_cpu = outside_gpu(data)
        return [
            *([f"Not in 8 bits: {floating}."] if floating else []),
            *([f"Not for LiteRT's GPU delegate: {on_cpu}."] if on_cpu else []),
        ]


def to_tflite(generator: Generator) -> bytes:
    """The generator, which has no free sizes, as the bytes of a .tflite file.

    Raises:
        LeanganError: the converter has no form for one of its operators.
    """
    from leangan.graph.conv1d import conv1d_as_2d
    from leangan.graph.plain_transposed import plain_transposed
    from leangan.graph.real_parts import complex_as_real
    from leangan.graph.spelled_norms import spell_norms
    from leangan.runtimes.litert_activations import fuse_activations
    from leangan.runtimes.litert_integer import complete
    from leangan.runtimes.litert_shuffles import fuse_shuffles
    from leangan.runtimes.litert_slices import fuse_slices

    plain = plain_transposed(conv1d_as_2d(complex_as_real(generator)))
    quantized = plain.quantized
    plain = complete(plain) if quantized else spell_norms(plain)
    inputs, outputs = port_names(generator)
    model = unpack(_converted(plain, quantized=quantized))
    name_ports(model, inputs, outputs)
    if quantized:
        fuse_transposed(model, transposed_kernels(plain))
    fuse_activations(model)
    fuse_shuffles(model)
    fuse_slices(model)
    tidy(model)
    return pack(model)


def _converted(generator: Generator, *, quantized: bool) -> bytes:
    module = generator.module()
    module.training = False  # it has no modes to switch, and the converter warns of the wrong one
    with _silent():
        import litert_torch
        from litert_torch.quantize import pt2e_quantizer
        from litert_torch.quantize.quant_config import QuantConfig

        litert_torch.config.show_progress = False
        config = None
        if quantized:
            # Its choice of layers is not used: that a quantizer is there says what rounding means.
            settings = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            config = QuantConfig(pt2e_quantizer.PT2EQuantizer().set_global(settings))
        try:
            model = litert_torch.convert(module, generator.example(), quant_config=config)
            return bytes(model.model_content())
        except Exception as error:  # whatever the converter says of an operator
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LeanganError(
                f"{generator.name} cannot be written as a LiteRT file: {type(error).__name__}: "
                f"{lines[0].strip() if lines else ''} Choose the runtime onnxruntime instead."
            ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the converter's C++ code prints away from the user's terminal."""
    from leangan.graph.capture import quiet

    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    level = logging.root.level
    try:
        with quiet():
            yield
    finally:
        logging.root.setLevel(level)
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class LiteRTSession:
    """An interpreter and the signature's names."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._path = path
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._run = self._interpreter.get_signature_runner()
        model = unpack(path.read_bytes())
        self._inputs, self._outputs = ports(model)
        self._details = self._run.get_input_details()
        self._results = self._run.get_output_details()

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        feed = {
            name: _coded(np.ascontiguousarray(x, np.float32), self._details[name])
            for name, x in zip(self._inputs, inputs, strict=True)
        }
        found = self._run(**feed)
        return [_decoded(found[name], self._results[name]) for name in self._outputs]

    def int8_share(self) -> float | None:
        """Read from the file: its operators say what they compute in."""
        return int8_share(self._path.read_bytes())

    def layer_times(self) -> dict[str, float]:
        """Nothing: the interpreter's Python form has no clock."""
        return {}


def _coded(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return (np.rint(x / scale) + zero).clip(limits.min, limits.max).astype(details["dtype"])


def _decoded(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return x
    scale, zero = details["quantization"]
    return ((x.astype(np.float32) - zero) * scale).astype(np.float32)
