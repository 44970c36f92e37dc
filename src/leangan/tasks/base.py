"""What a task is: how a user's data becomes inputs, and how outputs are judged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from leangan.generator import Generator


@dataclass(frozen=True)
class Sample:
    """One input that a generator is calibrated or judged on."""

    name: str
    """The file it came from, or what it is ("latent 3")."""
    inputs: tuple[Tensor, ...]
    """In the signature's layouts and value ranges, batch 1 (unless the signature fixes another)."""
    truth: Tensor | None = None
    """What the output should be, in the output's layout and range, where the task knows it."""


@dataclass(frozen=True)
class Data:
    """Samples split so that nothing is judged on what it was calibrated on."""

    calibration: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    """What was converted or skipped, in words: "alpha.png: alpha channel dropped"."""


@dataclass(frozen=True)
class Score:
    """One metric over the held-out samples."""

    mean: float
    worst: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """As in report.json."""
        return {"mean": self.mean, "worst": self.worst, "n": self.n}


class Task(Protocol):
    """One application, one file in this room."""

    name: str
    """As in `leangan compress --task NAME`."""
    summary: str
    """One line for people."""
    floor: str
    """The default quality floor, for example "psnr>=40"."""
    losses: Mapping[str, float] | None
    """What outputs are compared by in training when nobody says, weights by name of
    `training.losses.LOSSES`; None where it depends on the kind of output alone."""

    def matches(self, generator: Generator) -> bool:
        """Whether a generator of this signature can be of this task."""
        ...

    def data(
        self, generator: Generator, source: Path | None, *, limit: int = 48, seed: int = 0
    ) -> Data:
        """Read, convert and split the user's data.

        Args:
            generator: says what sizes, layouts and ranges the samples must have.
            source: a folder or file; None where the task needs none (latents are drawn).
            limit: the most samples to make, two thirds of them for calibration.
            seed: the same seed gives the same samples and the same split.

        Raises:
            LeanganError: no such folder, nothing usable in it; unreadable files are named.
        """
        ...

    def examples(
        self,
        generator: Generator,
        source: Path | None,
        *,
        seed: int = 0,
        without: Collection[str] = (),
    ) -> Iterator[Sample]:
        """Samples to train on, without end: random parts of random files, mirrored at times.

        Args:
            generator: as for `data`; its typical sizes are those of the samples.
            source: as for `data`.
            seed: the same seed gives the same samples in the same order.
            without: names of samples of `data`, whose files are left out: what is judged on is
                not trained on.

        Raises:
            LeanganError: nothing usable is left.
        """
        ...

    def quality(
        self,
        generator: Generator,
        samples: Sequence[Sample],
        reference: Sequence[Tensor],
        output: Sequence[Tensor],
    ) -> dict[str, Score]:
        """Judge `output` against `reference`, the original's own output, and against the truth.

        Both hold the first output per sample, in the output port's layout and range. Keys are
        metric names: `psnr`, `ssim`, `perceptual`, `mean_shift`, `snr`, and with `_truth` at the
        end those against ground truth. Higher is better except for `perceptual`, `mean_shift`.
        """
        ...
