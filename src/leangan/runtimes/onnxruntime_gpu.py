"""ONNX Runtime on an NVIDIA GPU, by its CUDA or its TensorRT provider: float32 and fp16."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leangan.errors import LeanganError
from leangan.runtimes import nvidia
from leangan.runtimes.base import Artifact
from leangan.runtimes.onnx_codebook import index_weights
from leangan.runtimes.onnx_file import save_onnx, to_onnx
from leangan.runtimes.onnxruntime_ import MODEL, ONNXRuntime, ONNXRuntimeSession

if TYPE_CHECKING:
    from leangan.generator import Generator


class ONNXRuntimeCUDA(ONNXRuntime):
    """The CUDA provider; an artifact is the .onnx file of the CPU, in fp16 with half the bytes.

    Inputs and outputs are float32 on the CPU, and a run takes them over and back.
    """

    name = "onnxruntime-cuda"
    by_default = False
    package = "onnxruntime-gpu"
    provider = "CUDAExecutionProvider"

    def missing(self) -> str | None:
        """None when ONNX Runtime has the provider and there is a GPU, else what is needed."""
        if not nvidia.has_gpu():
            return nvidia.NEEDED
        if importlib.util.find_spec("onnxruntime"):
            import onnxruntime as ort

            if self.provider in ort.get_available_providers():
                return None
        return f"pip uninstall onnxruntime, then pip install {self.package}"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Nothing for int8: these providers compute our 8-bit form in float."""
        return () if quantized else ("fp32", "fp16")

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.onnx, in fp16 with the operators that hold it, and float32 ports."""
        if precision not in ("fp32", "fp16"):
            raise LeanganError(f"{self.name} has no precision {precision!r}; choose fp32 or fp16.")
        model = to_onnx(generator)
        index_weights(model)
        if precision == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            model = convert_float_to_float16(model, keep_io_types=True)
        return Artifact(self.name, precision, (save_onnx(model, folder / MODEL),))

    def open(self, artifact: Artifact, threads: int) -> ONNXRuntimeSession:
        """Load for the GPU; what the provider has not runs on the CPU.

        Raises:
            LeanganError: the provider does not load, where ONNX Runtime would go on without it.
        """
        import onnxruntime as ort

        with contextlib.suppress(AttributeError):  # CUDA's libraries, where pip brought them
            ort.preload_dlls()
        session = ONNXRuntimeSession(artifact.path, threads, self._providers(artifact.precision))
        if self.provider not in session.providers:
            raise LeanganError(
                f"ONNX Runtime cannot load its {self.provider}: a library of CUDA, cuDNN or "
                "TensorRT is missing or of another version."
            )
        return session

    def _providers(self, precision: str) -> list[Any]:
        # TF32 has 10 bits of mantissa and is no float32.
        return [(self.provider, {"use_tf32": "0"}), "CPUExecutionProvider"]


class ONNXRuntimeTensorRT(ONNXRuntimeCUDA):
    """The TensorRT provider, which compiles for minutes when a size is first run.

    Weights that have two zeros in every four along the input axis may use sparse tensor cores.
    """

    name = "onnxruntime-tensorrt"
    package = "onnxruntime-gpu tensorrt"
    provider = "TensorrtExecutionProvider"

    def open(self, artifact: Artifact, threads: int) -> ONNXRuntimeSession:
        """As with CUDA, which runs what TensorRT has not."""
        if importlib.util.find_spec("tensorrt"):
            importlib.import_module("tensorrt")  # loads its libraries from where pip put them
        return super().open(artifact, threads)

    def _providers(self, precision: str) -> list[Any]:
        # Sparse kernels are taken only for weights that have the pattern, and if they are faster.
        settings = {"trt_fp16_enable": str(precision == "fp16"), "trt_sparsity_enable": "True"}
        cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
        return [(self.provider, settings), cuda, "CPUExecutionProvider"]
