"""PyTorch on an NVIDIA GPU, compiled by inductor into one CUDA graph."""

from __future__ import annotations

from leangan.runtimes import nvidia
from leangan.runtimes.base import Artifact
from leangan.runtimes.torch_ import Torch, TorchSession, load_module


class TorchCUDA(Torch):
    """float32, or half precisions under autocast and channels last; the same .pt2 as on the CPU.

    Inputs and outputs are on the CPU, and a run takes them over and back.
    """

    name = "torch-cuda"
    by_default = False
    words = ("fp32", "fp16", "bf16")

    def missing(self) -> str | None:
        """None when PyTorch has CUDA and there is a GPU, else what is needed."""
        if not nvidia.has_gpu():
            return nvidia.NEEDED
        import torch

        return None if torch.cuda.is_available() else "a PyTorch with CUDA, see pytorch.org"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Nothing for int8, as on the CPU."""
        return () if quantized else self.words

    def open(self, artifact: Artifact, threads: int) -> TorchSession:
        """Load and wrap; the first run of a size compiles."""
        import torch

        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa are no float32
        module = torch.compile(load_module(artifact).to("cuda"), mode="reduce-overhead")
        return TorchSession(module, artifact.precision, "cuda")
