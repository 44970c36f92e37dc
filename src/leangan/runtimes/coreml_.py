"""Core ML: Apple systems, float32 and half precision; written anywhere, run there only."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.files import atomic_folder
from leangan.runtimes.base import Arrays, Artifact

if TYPE_CHECKING:
    from leangan.generator import Generator, Port

_MODEL = "generator.mlpackage"


class CoreML:
    """Core ML programs; an artifact is one .mlpackage, which is a folder."""

    name = "coreml"
    # Sizes can be left free within bounds, but only an Apple system can say whether they run.
    free_sizes = False
    by_default = False
    runs_here = sys.platform == "darwin"
    timed = True

    def missing(self) -> str | None:
        """None when coremltools is installed, else how to get it; it writes on any system."""
        if importlib.util.find_spec("coremltools"):
            return None
        return 'pip install "leangan[coreml]"'

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """What its programs are typed in; which unit computes them, Core ML decides."""
        return () if quantized else ("fp32", "fp16")

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.mlpackage, for iOS 16, macOS 13 and later."""
        if precision not in ("fp32", "fp16"):
            raise LeanganError(f"Core ML has no precision {precision!r} here; choose fp32 or fp16.")
        model = _convert(generator, precision)
        _check_shapes(generator, model.get_spec().description)
        with _silent(), atomic_folder(folder) as out:
            model.save(str(out / _MODEL))
        return Artifact(self.name, precision, (folder / _MODEL,))

    def open(self, artifact: Artifact, threads: int) -> CoreMLSession:
        """Compile for this machine; Core ML chooses the number of threads itself."""
        if not self.runs_here:
            raise LeanganError(f"{artifact.path} runs on Apple systems only, not on this machine.")
        return CoreMLSession(artifact.path)


class CoreMLSession:
    """A loaded model, and the names of its inputs and outputs in their order."""

    def __init__(self, path: Path) -> None:
        with _silent():
            import coremltools as ct

            self._model = ct.models.MLModel(str(path))
        description = self._model.get_spec().description
        self._inputs = [feature.name for feature in description.input]
        self._outputs = [feature.name for feature in description.output]

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        arrays = [np.ascontiguousarray(x, dtype=np.float32) for x in inputs]
        found = self._model.predict(dict(zip(self._inputs, arrays, strict=True)))
        return [np.array(found[name], dtype=np.float32) for name in self._outputs]

    def int8_share(self) -> float | None:
        """None: Core ML does not tell."""
        return None

    def layer_times(self) -> dict[str, float]:
        """Empty: Core ML does not tell."""
        return {}


def _convert(generator: Generator, precision: str) -> Any:
    from leangan.graph.real_parts import complex_as_real
    from leangan.runtimes.onnx_file import port_names

    inputs, outputs = port_names(generator)
    ports = generator.signature.inputs
    program = complex_as_real(generator).program
    try:
        with _silent():
            import coremltools as ct

            kinds = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
            return ct.convert(
                program,
                # Said outright, or the ports of a half-precision program are so too.
                inputs=[
                    ct.TensorType(name=name, shape=port.shape, dtype=np.float32)
                    for name, port in zip(inputs, ports, strict=True)
                ],
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
                convert_to="mlprogram",
                compute_precision=kinds[precision],
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
    except Exception as error:  # whatever the converter says of an operator
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LeanganError(
            f"{generator.name} cannot be written for Core ML: {type(error).__name__}: "
            f"{lines[0] if lines else 'no message'} Choose another runtime."
        ) from error


def _check_shapes(generator: Generator, description: Any) -> None:
    """What can be checked of a file that cannot be run here."""

    def differ(ports: tuple[Port, ...], features: Any) -> bool:
        found = [tuple(feature.type.multiArrayType.shape) for feature in features]
        return found != [port.shape for port in ports]

    signature = generator.signature
    if differ(signature.inputs, description.input) or differ(signature.outputs, description.output):
        raise LeanganError(
            f"Writing {generator.name} for Core ML changed its shapes. Please report this, and "
            "choose another runtime."
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No warnings of PyTorch versions that coremltools was not tested with, and no bars."""
    from leangan.graph.capture import quiet

    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
