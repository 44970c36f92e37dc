"""FPGAs by hls4ml: fixed-point C++ for high-level synthesis, simulated here bit by bit."""

from __future__ import annotations

import ctypes
import hashlib
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

_WEIGHTS = Path("firmware") / "weights"


class Hls4ml:
    """hls4ml's Vitis backend; an artifact is a project folder for the vendor's tool.

    It runs here as a C simulation, which gives the very numbers that the FPGA will, far slower.
    """

    name = "hls4ml"
    free_sizes = False
    by_default = False
    runs_here = True
    timed = False

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

        The settings of the artifact tell, as "counted", the multipliers and the memory that the
        design needs.

        Raises:
            LeanganError: names the layer that hls4ml has no form for.
        """
        from leangan.runtimes.fixed.read import read_fixed
        from leangan.runtimes.hls4ml_readme import readme

        if precision not in self.precisions(quantized=generator.quantized):
            raise LeanganError(
                f"hls4ml has no precision {precision!r} for "
                f"{'a quantized' if generator.quantized else 'a float'} generator; choose "
                f"{self.precisions(quantized=generator.quantized)[0]}."
            )
        network = read_fixed(generator)
        needs = counted(network)
        trials = np.concatenate([_maps(generator.example(seed=s)[0].numpy()) for s in range(2)])
        notes = readme(generator, network, needs)
        files = write_project(network, folder, notes, trials)
        shapes = {"input": list(network[0].shape), "output": list(network[-1].shape)}
        settings = {**shapes, "weights": _digest(folder), "counted": needs}
        return Artifact(self.name, precision, files, settings)

    def open(self, artifact: Artifact, threads: int) -> Hls4mlSession:
        """Compile the C simulation, for about a quarter of a minute."""
        return Hls4mlSession(artifact)


class Hls4mlSession:
    """The compiled top function, which takes one sample at a time, on one thread."""

    def __init__(self, artifact: Artifact) -> None:
        self._input: list[int] = artifact.settings["input"]
        self._output: list[int] = artifact.settings["output"]
        project = artifact.path.parent
        # The simulation would go on with zeros.
        if _digest(project) != artifact.settings["weights"]:
            raise LeanganError(
                f"The weights in {project / _WEIGHTS} are not those that were written; write them "
                "again with leangan export."
            )
        self._function = _compile(project)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once, see `Session.run`."""
        (x,) = inputs
        given = np.ascontiguousarray(_maps(x), dtype=np.float32)
        if list(given.shape[1:]) != self._input:
            raise LeanganError(
                f"The design takes {self._input}, channels last, and no other size; "
                f"{list(given.shape[1:])} came."
            )
        results = np.zeros((len(given), *self._output), np.float32)
        for sample, result in zip(given, results, strict=True):
            self._function(sample, result)
        return [np.moveaxis(results, -1, 1) if results.ndim == 4 else results]

    def int8_share(self) -> float | None:
        """None: widths of an FPGA are any number of bits."""
        return None

    def layer_times(self) -> dict[str, float]:
        """Empty: times of a simulation say nothing about the FPGA."""
        return {}


def _digest(project: Path) -> str:
    """SHA-256 of the numbers that the simulation reads."""
    digest = hashlib.sha256()
    for path in sorted((project / _WEIGHTS).glob("*.txt")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _maps(x: np.ndarray) -> np.ndarray:
    """A batch with the channels last."""
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def _compiler() -> str | None:
    return next((c for c in ("g++", "clang++") if shutil.which(c)), None)


def _compile(project: Path) -> Any:
    """The top function of a project, taking and giving float arrays."""
    with tempfile.TemporaryDirectory() as folder:
        library, both = Path(folder) / f"{NAME}.so", Path(folder) / "both.cpp"
        # Reading the headers takes longest, so all sources are one.
        both.write_text(f'#include "firmware/{NAME}.cpp"\n#include "{NAME}_bridge.cpp"\n')
        command = [
            _compiler() or "g++",
            *("-O1", "-std=c++17", "-fPIC", "-shared", "-w"),
            *("-I.", "-Ifirmware/ap_types"),
            f'-DWEIGHTS_DIR="{project.resolve() / _WEIGHTS}"',
            *(str(both), "-o", str(library)),
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
