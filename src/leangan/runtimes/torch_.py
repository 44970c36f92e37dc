"""PyTorch itself: eager, the baseline of every speed-up, and compiled by inductor."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.runtimes.base import Arrays, Artifact

if TYPE_CHECKING:
    from leangan.generator import Generator

_MODEL = "generator.pt2"


class Torch:
    """PyTorch in eager mode.

    float32 keeps the plain contiguous layout, as people run a generator they have just loaded.
    """

    name = "torch"
    free_sizes = True
    by_default = True
    runs_here = True
    timed = True
    words: tuple[str, ...] = ("fp32", "bf16")
    """The precisions that its file can be run in, on one CPU or another."""

    def missing(self) -> str | None:
        """None when PyTorch is installed, else how to get it."""
        return None if importlib.util.find_spec("torch") else "pip install torch"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """Nothing for int8: eager mode computes it in float, as a reference."""
        if quantized:
            return ()
        return self.words if _has_bf16() else ("fp32",)

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write generator.pt2."""
        if precision not in self.words:
            raise LeanganError(
                f"The runtime {self.name} has no precision {precision!r}; choose from "
                f"{', '.join(self.words)}."
            )
        return Artifact(self.name, precision, (generator.save(folder / _MODEL),))

    def open(self, artifact: Artifact, threads: int) -> TorchSession:
        """Load the archive; PyTorch's number of threads is one setting for the whole process."""
        import torch

        torch.set_num_threads(threads)
        return TorchSession(load_module(artifact), artifact.precision)


class TorchInductor(Torch):
    """PyTorch compiled by inductor, which needs a C++ compiler and a minute or more."""

    name = "torch-inductor"
    by_default = False

    def missing(self) -> str | None:
        """None when PyTorch and a C++ compiler are there, else how to get them."""
        if any(shutil.which(c) for c in ("g++", "clang++", "cl")):
            return super().missing()
        return "a C++ compiler, for example apt install g++"

    def open(self, artifact: Artifact, threads: int) -> TorchSession:
        """Load and wrap; the first run compiles."""
        import torch

        torch.set_num_threads(threads)
        return TorchSession(torch.compile(load_module(artifact)), artifact.precision)


class TorchSession:
    """A module without gradients; half precisions are run under autocast and channels last."""

    def __init__(self, module: Callable[..., Any], precision: str, device: str = "cpu") -> None:
        import torch

        self._module = module
        self._device = device
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        import torch

        arrays = (np.ascontiguousarray(x, dtype=np.float32) for x in inputs)
        tensors = [torch.from_numpy(x).to(self._device) for x in arrays]
        half = self._half
        if half is not None:
            tensors = [
                t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                for t in tensors
            ]
        with torch.no_grad(), torch.autocast(self._device, half, enabled=half is not None):
            result = self._module(*tensors)
        outputs = result if isinstance(result, tuple | list) else (result,)
        return [t.float().cpu().contiguous().numpy() for t in outputs]

    def int8_share(self) -> float | None:
        """None: eager mode does not tell."""
        return None

    def layer_times(self) -> dict[str, float]:
        """Empty: eager mode runs 8 bits in float, and inductor's kernels span layers."""
        return {}


def load_module(artifact: Artifact) -> Any:
    """The program of a .pt2 as a module, channels last where the precision is half."""
    import torch

    from leangan.archive import open_archive

    module = open_archive(artifact.path).module()
    if artifact.precision != "fp32":
        for node in module.graph.nodes:
            # A view of what is channels last has no strides to be one.
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        module.recompile()
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dim() == 4:  # of five axes, as modulated weights have, there is no such form
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def _has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions, so that it is no mere emulation."""
    import torch

    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.backends.cpu.get_cpu_capability() in ("SVE256", "SVE"))
