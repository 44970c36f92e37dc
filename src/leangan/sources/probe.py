"""Find by trial which sizes a program accepts and at which its output keeps its proportion.

The trials run on fake tensors: every operator works out its output's shape and computes nothing,
so that a size of thousands costs as little as one of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.export import ExportedProgram
from torch.func import functional_call

from leangan.errors import LeanganError
from leangan.graph.capture import quiet
from leangan.runner import runner

SPATIAL = "HWT"
_CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 320, 512)
_FAR = 46080  # = 2^10 * 45: a size that any plausible multiple divides
_TRIALS = 1025  # odd, so that m * 1025 is no multiple of 2m; large, so that rounding shows


@dataclass(frozen=True)
class Sizes:
    """What the free spatial axes must look like."""

    multiple: int
    """The smallest number whose every multiple (from `minimum` on) runs and makes an output of
    size a * input + b with one and the same a and b."""
    minimum: int
    """The smallest multiple of it that runs."""


def probe(
    program: ExportedProgram,
    layouts: Sequence[str],
    shapes: Sequence[tuple[int | None, ...]],
    known_good: int,
    exact: Sequence[bool],
) -> Sizes | None:
    """Find the multiple and minimum that the free spatial axes (H, W, T) share.

    Args:
        program: with free sizes; it is not changed.
        layouts: one letter an axis for each input, see `Port.layout`.
        shapes: of each input, None for a free size.
        known_good: a spatial size that is known to run, taken as the multiple when nothing
            smaller is found to work.
        exact: per output, whether its size must grow in proportion to the input's.

    Returns:
        None when no spatial axis is free.
    """
    free = {
        letter
        for layout, shape in zip(layouts, shapes, strict=True)
        for letter, size in zip(layout, shape, strict=True)
        if size is None and letter in SPATIAL
    }
    if not free:
        return None
    trial = _Trial(program, layouts, shapes, exact)
    near, far = trial.outputs(_FAR), trial.outputs(2 * _FAR)
    slopes = (
        [
            [Fraction(b - a, _FAR) for a, b in zip(x, y, strict=True)]
            for x, y in zip(near, far, strict=True)
        ]
        if near is not None and far is not None
        else None
    )
    candidates = [m for m in _CANDIDATES if m < known_good] + [known_good]
    multiple = next((m for m in candidates if _proportional(trial, m, slopes)), known_good)
    minimum = next(
        (k * multiple for k in range(1, 65) if trial.outputs(k * multiple) is not None), known_good
    )
    return Sizes(multiple, minimum)


def _proportional(
    trial: _Trial, multiple: int, slopes: Sequence[Sequence[Fraction]] | None
) -> bool:
    """Whether the output grows by `slopes` from each multiple to the next."""
    before = None
    for k in range(_TRIALS, _TRIALS + 3):
        now = trial.outputs(k * multiple)
        if now is None:
            return False
        if before is not None and slopes is not None:
            grown = [
                [Fraction(b - a, multiple) for a, b in zip(x, y, strict=True)]
                for x, y in zip(before, now, strict=True)
            ]
            if grown != slopes:
                return False
        before = now
    return True


class _Trial:
    """Runs the program on fake tensors, one size for all free spatial axes."""

    def __init__(
        self,
        program: ExportedProgram,
        layouts: Sequence[str],
        shapes: Sequence[tuple[int | None, ...]],
        exact: Sequence[bool],
    ) -> None:
        self.exact = exact
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.module = runner(program)
        # Made fake once: what an operator makes of fake tensors alone is remembered.
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())
        self.weights: dict[str, Tensor] = {n: self.mode.from_tensor(t) for n, t in tensors}
        self.layouts, self.shapes = layouts, shapes
        self.seen: dict[int, list[tuple[int, ...]] | None] = {}

    def outputs(self, size: int) -> list[tuple[int, ...]] | None:
        """The shapes of the exact outputs at `size`, None when the program does not run there."""
        if size not in self.seen:
            self.seen[size] = self._run(size)
        return self.seen[size]

    def _run(self, size: int) -> list[tuple[int, ...]] | None:
        shapes = [_fill(lay, sh, size) for lay, sh in zip(self.layouts, self.shapes, strict=True)]
        try:
            with quiet(), torch.no_grad(), self.mode:
                inputs = tuple(torch.empty(shape) for shape in shapes)
                result = functional_call(self.module, self.weights, inputs)
        except Exception:  # a size that does not fit fails in as many ways as there are operators
            return None
        results = result if isinstance(result, tuple | list) else (result,)
        made = [tuple(int(s) for s in r.shape) for r in results]
        if not all(size > 0 for shape in made for size in shape):
            return None
        return [shape for shape, exact in zip(made, self.exact, strict=True) if exact]


def shapes_at(program: ExportedProgram, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The output shapes for inputs of these shapes, without computing anything.

    Raises:
        LeanganError: they depend on values as well.
    """
    module = runner(program)  # with its real weights
    try:
        with quiet(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            result = module(*(torch.empty(shape) for shape in shapes))
    except DynamicOutputShapeException as error:
        raise LeanganError(
            f"The network picks elements by their values ({error.func}), so that sizes inside of "
            "it are not known: use torch.where in place of tensor[mask]."
        ) from error
    results = result if isinstance(result, tuple | list) else (result,)
    return [tuple(int(s) for s in r.shape) for r in results]


def _fill(layout: str, shape: Sequence[int | None], spatial: int) -> tuple[int, ...]:
    """A full shape: fixed sizes stay, the free batch is 2, other free sizes are `spatial`."""
    return tuple(
        fixed if fixed is not None else 2 if letter == "N" else spatial
        for letter, fixed in zip(layout, shape, strict=True)
    )
