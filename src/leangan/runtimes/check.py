"""Prove that an artifact computes what its Generator does, in a fresh process, at several sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from leangan.errors import LeanganError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from leangan.generator import Generator
    from leangan.measure.latency import Worker
    from leangan.runtimes.base import Artifact

FP32_TOLERANCE = 1e-3
"""Largest difference in float32, as a share of the output's range."""
ROUNDING = 3e-7
"""What two float32 sigmoids may differ by: much of the range where all outputs are nearly 0."""
FLOOR_DB = 20.0
"""Least agreement of a low precision with its Generator. It does not judge quality, which is a
task's to do on real data; below it the artifact computes something else."""

_EXPECTED: WeakKeyDictionary[ExportedProgram, dict[Any, list[np.ndarray]]] = WeakKeyDictionary()
"""By size and seed: one program goes to several runtimes, which are all asked the same."""


@dataclass(frozen=True)
class Agreement:
    """How an artifact and its Generator compare at one size."""

    size: str
    """In words: "N 1, H 64, W 48"."""
    largest_difference: float
    """As a share of the range of the Generator's output."""
    db: float
    """Ratio of that range to the root mean square difference, in decibels; inf when equal."""


def agree(
    generator: Generator,
    artifact: Artifact,
    worker: Worker,
    sizes: Sequence[Mapping[str, int]] | None = None,
    *,
    seed: int = 0,
) -> list[Agreement]:
    """Run the artifact in its process and the Generator in this one on the same random inputs.

    Args:
        generator: what the artifact was built from.
        artifact: opened by `worker`.
        worker: its process.
        sizes: per comparison the size of each layout letter; rounded up to what the signature's
            multiples allow. `three_sizes` when left out.
        seed: of the random inputs.

    Raises:
        LeanganError: it fails, or gives another shape, a number that is not finite, or values
            that the precision does not explain; the message names the size.
    """
    found = []
    for wanted in three_sizes(generator) if sizes is None else sizes:
        size = round_up(generator, wanted)
        words = ", ".join(f"{letter} {n}" for letter, n in size.items()) or "the only size"
        title = f"{artifact.path.name} ({artifact.runtime} {artifact.precision}) at {words}"
        inputs = generator.example(size, seed=seed)
        known = _EXPECTED.setdefault(generator.program, {})
        key = (generator.signature, tuple(size.items()), seed)
        if key not in known:
            known[key] = [t.numpy() for t in generator.outputs(*inputs)]
        expected = known[key]
        try:
            outputs = worker.run([t.numpy() for t in inputs])
        except LeanganError as error:
            raise LeanganError(f"{title} does not run. {error}") from error
        found.append(_compare(title, words, artifact.precision, expected, outputs))
    return found


def three_sizes(generator: Generator) -> list[dict[str, int]]:
    """The typical size, about three quarters of it and odd, and half of it in a bigger batch.

    None is smaller than what was seen to run.
    """
    smallest = generator.smallest_size
    letters = {
        letter: typical
        for port in generator.signature.inputs
        for letter, fixed, typical in zip(port.layout, port.shape, port.typical, strict=True)
        if fixed is None
    }
    if not letters:
        return [{}]
    typical, odd, small = dict(letters), dict(letters), dict(letters)
    for place, (letter, n) in enumerate(letters.items()):
        if letter == "N":
            odd[letter], small[letter] = 1, 3
        elif n >= 16:  # a latent of 1 x 1 or a few frames stay what they are
            # Height and width differ, so that one taken for the other shows.
            odd[letter] = max(n * 3 // 4 + 2 * place, smallest) | 1
            small[letter] = max(n // 2 + 4 * place, smallest)
    return [typical, odd, small]


def round_up(generator: Generator, sizes: Mapping[str, int]) -> dict[str, int]:
    """The next sizes that every input of the signature accepts."""
    result = dict(sizes)
    for port in generator.signature.inputs:
        for axis, letter in enumerate(port.layout):
            if letter in result and port.shape[axis] is None:
                multiple = math.lcm(
                    *(
                        p.multiple_of(a)
                        for p in generator.signature.inputs
                        for a, other in enumerate(p.layout)
                        if other == letter
                    )
                )
                result[letter] = -(-result[letter] // multiple) * multiple
    return result


def _compare(
    title: str,
    words: str,
    precision: str,
    expected: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
) -> Agreement:
    shapes, wanted = [o.shape for o in outputs], [e.shape for e in expected]
    if shapes != wanted:
        raise LeanganError(f"{title} gives outputs of shape {shapes} instead of {wanted}.")
    apart, worst, db = 0.0, 0.0, math.inf
    for e, o in zip(expected, outputs, strict=True):
        if not np.isfinite(o).all():
            raise LeanganError(
                f"{title} gives values that are not finite: {precision} does not hold this "
                "network's range. Choose another precision."
            )
        spread = float(e.max() - e.min()) or 1.0
        difference = np.abs(e.astype(np.float64) - o)
        apart = max(apart, float(difference.max()))
        difference /= spread
        worst = max(worst, float(difference.max()))
        square = float((difference**2).mean())
        db = min(db, -10 * math.log10(square) if square else math.inf)
    differs = apart > ROUNDING
    if differs and precision == "fp32" and not worst <= FP32_TOLERANCE:
        raise LeanganError(
            f"{title} differs from the generator by {worst:.1e} of its range, more than float "
            "rounding explains. Please report this, and choose another runtime."
        )
    if differs and db < FLOOR_DB:
        raise LeanganError(
            f"{title} agrees with the generator to {db:.1f} dB only, which {precision} does not "
            "explain. Choose another precision or runtime."
        )
    return Agreement(words, worst, db)
