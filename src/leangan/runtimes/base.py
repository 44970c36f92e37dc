"""What a runtime is: a way to build a deployable file from a Generator, and to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # sessions run in processes that never import torch
    from leangan.generator import Generator

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Artifact:
    """A deployable model on disk, with all that is needed to open it again."""

    runtime: str
    precision: str
    """What the runtime computes in: "fp32", "bf16", "int8" (rest float32), "int8+bf16"."""
    files: tuple[Path, ...]
    """The main file first; the others must stay beside it, or in folders beside it. A form that is
    a folder is named as one (.mlpackage)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """JSON values that `open` needs besides the files."""

    @property
    def path(self) -> Path:
        """The file to hand to the runtime."""
        return self.files[0]

    @property
    def in_8_bits(self) -> bool:
        """Whether layers are meant to run in 8 bits, whatever the rest does."""
        return self.precision.startswith("int8")

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "files": [str(f) for f in self.files],
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Artifact:
        """Read what `to_json` wrote."""
        files = tuple(Path(f) for f in data["files"])
        return cls(data["runtime"], data["precision"], files, data["settings"])


class Session(Protocol):
    """An opened artifact."""

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Run once. Float32 arrays in the signature's order and layouts, in and out."""
        ...

    def int8_share(self) -> float | None:
        """Share of the multiply-accumulates that the runtime says it executes in 8 bits.

        0 to 1; None where the runtime does not tell.
        """
        ...

    def layer_times(self) -> dict[str, float]:
        """Milliseconds that each layer takes on the last inputs, by leangan's name of the layer.

        With what is done for the layer alone (quantizing its input), without what belongs to
        none. Empty where the runtime does not tell, and before the first run.
        """
        ...


class Runtime(Protocol):
    """One backend. Modules of this kind import their package and torch only when used."""

    name: str
    free_sizes: bool
    """Whether its files run at every size of the signature. Where not, `build` is given a
    generator without free sizes (graph.sizes.fix_sizes)."""
    by_default: bool
    """Whether it is tried where the user names no runtime: those of other machines, and those
    that compile for minutes, are not."""
    runs_here: bool
    """Whether its files can be opened on this system. Where not, they can be written by an export,
    which says that they were not run, and by nothing that proves or times them."""
    timed: bool
    """Whether the time of a run here says how fast it is. A simulator's does not: what it runs is
    proved and judged, and never competes for speed."""

    def missing(self) -> str | None:
        """None when it can be used here, else the command that brings it, or what it needs."""
        ...

    def precisions(self, *, quantized: bool) -> tuple[str, ...]:
        """What this machine's CPU really runs for a float or an int8 generator, fastest last."""
        ...

    def build(self, generator: Generator, folder: Path, precision: str) -> Artifact:
        """Write the deployable files into `folder` (which exists and is the caller's)."""
        ...

    def open(self, artifact: Artifact, threads: int) -> Session:
        """Load the files; imports neither torch nor the Generator unless it is torch's own."""
        ...


@runtime_checkable
class Covers(Protocol):
    """A runtime that reads off its files what they leave to slower kernels."""

    def coverage(self, artifact: Artifact) -> list[str]:
        """Sentences for people, see `leangan.runtimes.coverage`; the files are only read."""
        ...


def counted(kinds: Iterable[str]) -> str:
    """Kinds of operators in words, each with how often it comes: "20 x Pad, 2 x Conv"."""
    names = list(kinds)
    return ", ".join(f"{names.count(kind)} x {kind}" for kind in dict.fromkeys(names))


@runtime_checkable
class OnRequest(Protocol):
    """A runtime with precisions that are built when named, and that no search tries."""

    def on_request(self, *, quantized: bool) -> tuple[str, ...]:
        """Their names, for a float or an int8 generator."""
        ...
