"""Inputs cut to what is affordable: positions are many, and much alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from leangan.generator import Generator, Port

_LEAST_SIDE = 32
"""Crops by share are not smaller than this along a free axis."""


def crop(
    generator: Generator, inputs: tuple[Tensor, ...], wanted: Callable[[Port, int, int], int]
) -> tuple[Tensor, ...]:
    """The middle of the inputs along their free spatial and time axes.

    Args:
        generator: says which axes are free, and what their sizes must be multiples of.
        inputs: as it takes them.
        wanted: called with port, axis and size; the size to cut to, rounded down to a multiple,
            one multiple at least. Nothing is enlarged.
    """
    pieces = []
    for x, port in zip(inputs, generator.signature.inputs, strict=True):
        for axis, letter in enumerate(port.layout):
            if letter in "HWT" and port.shape[axis] is None:
                multiple = port.multiple_of(axis)
                size = max(wanted(port, axis, x.shape[axis]) // multiple, 1) * multiple
                if size < x.shape[axis]:
                    x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
        pieces.append(x.contiguous())
    return tuple(pieces)


def crop_share(
    generator: Generator, inputs: tuple[Tensor, ...], share: float
) -> tuple[Tensor, ...]:
    """Free sizes cut to `share` of what they are, within sense; equal letters stay equal."""
    return crop(generator, inputs, lambda port, axis, size: max(int(size * share), _LEAST_SIDE))
