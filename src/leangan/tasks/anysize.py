"""Run a generator at sizes that it does not take: pad by reflection, run, crop back."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.generator import Port

Run = Callable[[Tensor], Tensor]
"""Takes the first input in its port's layout and range, and returns the first output."""

SPATIAL = "HWT"
"""Layout letters of the axes that are padded."""


def run_any_size(run: Run, x: Tensor, port: Port) -> Tensor:
    """Run on an input of any height, width or length.

    Each such axis is padded at its end, by reflection, to the port's multiple (to its size, where
    the port fixes that), and the output is cut back in the same proportion. Nothing is touched
    when nothing needs padding.

    Args:
        run: the generator.
        x: one input in the port's layout.
        port: the input's. The output has the same letters at the same axes.

    Returns:
        The output for `x` alone: `scale` times its size along each axis, for some scale.

    Raises:
        LeanganError: `x` is larger than a size that the port fixes, or the output's size does
            not grow in proportion to the input's.
    """
    padded = x
    for axis, letter in enumerate(port.layout):
        if letter in SPATIAL:
            padded = pad_end(padded, axis, padded_size(x.shape[axis], port, axis))
    output = run(padded)
    for axis, letter in enumerate(port.layout):
        if letter not in SPATIAL or padded.shape[axis] == x.shape[axis]:
            continue
        size = Fraction(output.shape[axis], padded.shape[axis]) * x.shape[axis]
        if size.denominator != 1:
            raise LeanganError(
                f"Input {port.name!r} of size {x.shape[axis]} (axis {letter}) was padded to "
                f"{padded.shape[axis]}, but the output's {output.shape[axis]} cannot be cut back "
                f"in proportion; use a multiple of {port.multiple_of(axis)}."
            )
        output = output.narrow(axis, 0, int(size))
    return output.contiguous()


def padded_size(size: int, port: Port, axis: int) -> int:
    """The smallest size of that axis that the port takes and that holds `size`."""
    fixed = port.shape[axis]
    if fixed is None:
        multiple = port.multiple_of(axis)
        return -(-size // multiple) * multiple
    if size > fixed:
        raise LeanganError(
            f"Input {port.name!r} takes the size {fixed} only along axis {port.layout[axis]}, "
            f"and {size} is more; make it smaller."
        )
    return fixed


def pad_end(x: Tensor, axis: int, size: int) -> Tensor:
    """Continue `x` along one axis to `size`, mirrored at its last element, and again if needed."""
    have = x.shape[axis]
    if size == have:
        return x
    period = max(2 * (have - 1), 1)
    index = torch.arange(size, device=x.device) % period
    index = torch.where(index < have, index, period - index)
    return x.index_select(axis, index)
