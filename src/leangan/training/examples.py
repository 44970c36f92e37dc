"""What is learned from, made once before training: inputs, and what the teacher makes of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leangan.files import atomic_folder
from leangan.tasks.arrays import FAR
from leangan.tasks.base import Sample

_PART, _PART_BYTES = 32, 1 << 22
"""Examples in a part, or as many as have these bytes: an interrupted preparation loses no more."""

Run = Callable[[tuple[Tensor, ...]], Tensor]
"""A teacher: a batch of inputs to its first output."""


@dataclass(frozen=True)
class Batch:
    """A few examples, each tensor with the batch in front."""

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    """The teacher's output."""
    truth: Tensor | None = None
    """What the output should be, where the task knows it."""


class Examples:
    """Examples on disk, in parts of numbers of two bytes, read as they are needed.

    Two bytes are exact enough for pictures (1/2048 of a value), and half as much to read.
    """

    def __init__(self, folder: Path) -> None:
        """Open what `prepare` left."""
        parts = sorted(folder.glob("part-*"))
        names = [f.stem for f in sorted(parts[0].iterdir())]
        self._arrays = {
            name: [np.load(part / f"{name}.npy", mmap_mode="r") for part in parts] for name in names
        }
        self._inputs = [n for n in names if n.startswith("input")]
        self._truth = "truth" in names

    def __len__(self) -> int:
        return sum(len(a) for a in self._arrays["wanted"])

    def batch(self, picks: list[int]) -> Batch:
        """The examples of these numbers."""
        inputs = tuple(self._read(name, picks) for name in self._inputs)
        truth = self._read("truth", picks) if self._truth else None
        return Batch(inputs, self._read("wanted", picks), truth)

    def at(self, step: int, batch: int, seed: int, place: slice = slice(None)) -> Batch:
        """The batch of a step, or the part of it at `place`; see `order`."""
        return self.batch(order(len(self), step, batch, seed)[place])

    def _read(self, name: str, picks: list[int]) -> Tensor:
        parts = self._arrays[name]
        size = len(parts[0])
        rows = [parts[pick // size][pick % size] for pick in picks]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def order(count: int, step: int, batch: int, seed: int) -> list[int]:
    """Which of `count` examples a step learns from: each once a round, every round in its order.

    It depends on nothing but the arguments, so that a run may go on anywhere.
    """
    picks: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        turn, offset = divmod(place, count)
        picks.append(_permutation(count, seed, turn)[offset])
    return picks


@functools.lru_cache(maxsize=2)  # a batch may end one round and begin the next
def _permutation(count: int, seed: int, turn: int) -> list[int]:
    rng = torch.Generator().manual_seed(seed * FAR + turn)
    return torch.randperm(count, generator=rng).tolist()


def prepare(
    folder: Path,
    samples: Iterator[Sample],
    teacher: Run,
    count: int,
    *,
    part: int = _PART,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """Run the teacher on `count` samples, and keep both; what is there already is kept.

    Args:
        folder: for the parts; each is written at once or not at all.
        samples: the same ones, in the same order, whenever it is called for this folder.
        teacher: the network to learn from.
        count: rounded up to whole parts.
        part: examples to write at once; see `part_of`.
        batch: inputs to run at once, where their sizes are equal.
        progress: called with (examples made, examples in all).
    """
    whole = -(-count // part)
    for number in range(whole):
        place = folder / f"part-{number:05d}"
        these = list(itertools.islice(samples, part))
        if not place.is_dir():
            columns = _columns(these, teacher, batch)
            with atomic_folder(place) as temporary:
                for name, rows in columns.items():
                    np.save(temporary / f"{name}.npy", rows)
        if progress:
            progress((number + 1) * part, whole * part)
    return Examples(folder)


def part_of(count: int, size: int) -> int:
    """How many of `count` examples of `size` bytes to write at once: small ones in few files."""
    return max(_PART, min(count, _PART_BYTES // size))


def _columns(samples: list[Sample], teacher: Run, batch: int) -> dict[str, np.ndarray]:
    """By name, an array with one row per sample."""
    inputs = [torch.cat(column).half() for column in zip(*(s.inputs for s in samples), strict=True)]
    # The teacher sees what the student will see.
    pieces = zip(*(x.float().split(batch) for x in inputs), strict=True)
    wanted = torch.cat([teacher(piece).half() for piece in pieces])
    columns = {f"input{i}": x.numpy() for i, x in enumerate(inputs)}
    truths = [s.truth for s in samples if s.truth is not None]
    if len(truths) == len(samples):
        columns["truth"] = torch.cat(truths).half().numpy()
    return {**columns, "wanted": wanted.numpy()}
