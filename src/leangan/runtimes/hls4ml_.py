"""FPGAs by hls4ml: fixed-point C++ for high-level synthesis, simulated here bit by bit."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.errors import LeanganError
from leangan.runtimes.base import Arrays, Artifact
from leangan.runtimes.hls4ml_project import NAME, counted, write_project

if TYPE_CHECKING:
    from leangan.generator import Generator

_PRECISIONS = ("fixed16", "fixed8")


class Hls4ml:
    """hls4ml's Vitis backend; an artifact is a project folder for the vendor's tool.

    It runs here as a C simulation, which gives the very numbers that the FPGA will, far slower.
    """

    name = "hls4ml"
    free_sizes = False
    by_default = False
    runs_here = True

    def missing(self) -> str | None:
        """None when hls4ml and a C++ compiler are there, else how to get them."""
        if _compiler() is None:
            return "a C++ compiler, for example apt install g++"
        return None if importlib.util.find_spec("hls4ml") else "pip install 'leangan[fpga]'"

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """16-bit fixed point; where a generator is quantized, its own bits in those layers."""
        return ("fixed8",) if quantized else ("fixed16",)

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write the project: sources, weights, scripts, and a README that says what to do next.

        Transposed convolutions with float weights become plain ones and a shuffle. The settings of
        the artifact tell, as "counted", the multipliers and the memory that the design needs.

        Raises:
            LeanganError: names the layer that hls4ml has no form for.
        """
        from leangan.graph.phases import latent_as_linear
        from leangan.graph.transposed import transposed_as_shuffle
        from leangan.runtimes.fixed.read import read_fixed
        from leangan.runtimes.hls4ml_readme import readme

        if precision not in self.precisions(quantized=generator.quantized):
            raise LeanganError(
                f"hls4ml has no precision {precision!r} for "
                f"{'a quantized' if generator.quantized else 'a float'} generator; choose "
                f"{self.precisions(quantized=generator.quantized)[0]}."
            )
        network = read_fixed(transposed_as_shuffle(latent_as_linear(generator)))
        needs = counted(network)
        files = write_project(network, folder, readme(generator, network, needs))
        shapes = {"input": list(network[0].shape), "output": list(network[-1].shape)}
        return Artifact(self.name, precision, files, {**shapes, "counted": needs})

    def open(self, artifact: Artifact, threads: int) -> Hls4mlSession:
        """Compile the C simulation, for about a quarter of a minute."""
        return Hls4mlSession(artifact)


class Hls4mlSession:
    """The compiled top function, which takes one sample at a time, on one thread."""

    def __init__(self, artifact: Artifact) -> None:
        self._input: list[int] = artifact.settings["input"]
        self._output: list[int] = artifact.settings["output"]
        self._function = _compile(artifact.path.parent)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        (x,) = inputs
        made = [self._one(sample) for sample in x]
        return [np.stack(made)]

    def _one(self, sample: np.ndarray) -> np.ndarray:
        maps = np.moveaxis(sample, 0, -1) if sample.ndim == 3 else sample
        given = np.ascontiguousarray(maps, dtype=np.float32)
        if list(given.shape) != self._input:
            raise LeanganError(
                f"The design takes one size, {self._input} channels last; {list(given.shape)} came."
            )
        result = np.zeros(self._output, np.float32)
        self._function(given, result)
        return np.moveaxis(result, -1, 0) if result.ndim == 3 else result

    def int8_share(self) -> float | None:
        """None: widths of an FPGA are any number of bits."""
        return None

    def layer_times(self) -> dict[str, float]:
        """Empty: times of a simulation say nothing about the FPGA."""
        return {}


def _compiler() -> str | None:
    return next((c for c in ("g++", "clang++") if shutil.which(c)), None)


def _compile(project: Path) -> Any:
    """The top function of a project, taking and giving float arrays."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{NAME}.so"
        weights = project.resolve() / "firmware" / "weights"
        command = [
            _compiler() or "g++",
            *("-O1", "-std=c++17", "-fPIC", "-shared", "-w"),
            "-Ifirmware/ap_types",
            f'-DWEIGHTS_DIR="{weights}"',
            f"firmware/{NAME}.cpp",
            f"{NAME}_bridge.cpp",
            *("-o", str(library)),
        ]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise LeanganError(
                f"The C++ sources in {project} do not compile, so they are damaged; write them "
                f"again with leangan export. The compiler says: {lines[0]}"
            )
        function = getattr(ctypes.CDLL(str(library)), f"{NAME}_float")
    array = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    function.restype, function.argtypes = None, [array, array]
    return function
