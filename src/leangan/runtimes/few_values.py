"""Weights of few different values as tables and indices of 4 or 8 bits, for files of runtimes.

The generator's own file (compact_codebook.py) codes indices by their frequency, which no runtime
reads. Here they have the widths that ONNX and OpenVINO have a type for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from leangan.compact_codebook import groupings

_NIBBLE = 16
_OPERATORS = 2048
"""Bytes, about, of the operators that expand a table: in OpenVINO's XML, the longer of the two."""
_WORTH = 0.75
"""Share of the plain bytes from which on operators at every loading are not worth it."""
_HALVES = 256
"""Levels from which a table in halves makes up for the operator that widens it."""


@dataclass(frozen=True)
class Indexed:
    """A tensor as `table[indices + offsets]`."""

    table: np.ndarray
    """float32 [groups * levels], the levels of one group after those of the other."""
    indices: np.ndarray
    """uint8, of the tensor's shape, counted within a group."""
    offsets: np.ndarray | None
    """int32, of the tensor's number of axes: where the group of a channel begins in the table.
    None when there is one group."""

    @property
    def bits(self) -> int:
        """4 or 8: of an index."""
        return 4 if int(self.indices.max()) < _NIBBLE else 8

    @property
    def half(self) -> np.ndarray | None:
        """uint16: a large table in bfloat16; None when that does not hold it exactly."""
        bits = self.table.view(np.uint32)
        if bits.size < _HALVES or (bits & 0xFFFF).any():
            return None
        return (bits >> 16).astype(np.uint16)


def indexed(weight: np.ndarray) -> Indexed | None:
    """The smallest such form of a float32 tensor, equal bit for bit.

    Returns:
        None where it is hardly smaller than plain floats.
    """
    if weight.dtype != np.float32 or weight.ndim == 0 or weight.nbytes <= _OPERATORS:
        return None
    elements = np.ascontiguousarray(weight).view(np.uint32)
    least = _WORTH * weight.nbytes
    best: tuple[tuple[int, int, int], list[np.ndarray]] | None = None
    for parting, books in groupings(elements.reshape(-1), weight.shape):
        cost = _bytes(weight, parting, books)
        if cost < least:
            least, best = cost, (parting, books)
    return None if best is None else _index(elements, *best)


def _bytes(weight: np.ndarray, parting: tuple[int, int, int], books: list[np.ndarray]) -> int:
    levels, groups = max(map(len, books)), parting[1]
    half = not any((book & 0xFFFF).any() for book in books)
    indices = weight.size // 2 if levels <= _NIBBLE else weight.size
    offsets = 4 * max(weight.shape[:2]) if groups > 1 else 0
    return indices + groups * levels * (2 if half else 4) + offsets + _OPERATORS


def _index(elements: np.ndarray, parting: tuple[int, int, int], books: list[np.ndarray]) -> Indexed:
    outer, groups, _ = parting
    levels = max(map(len, books))
    table = np.zeros((groups, levels), np.uint32)
    indices = np.empty(parting, np.uint8)
    lined = elements.reshape(parting)
    for group, book in enumerate(books):
        table[group, : len(book)] = book
        indices[:, group] = np.searchsorted(book, lined[:, group])
    offsets = None
    if groups > 1:
        # Groups lie along the axis before which there are `outer` rows.
        axis = 0 if outer == 1 else 1
        channels = elements.shape[axis]
        starts = np.arange(channels) * groups // channels * levels
        shape = [1] * elements.ndim
        shape[axis] = channels
        offsets = starts.astype(np.int32).reshape(shape)
    return Indexed(table.view(np.float32).reshape(-1), indices.reshape(elements.shape), offsets)


def pack(codes: np.ndarray) -> np.ndarray:
    """Two numbers of 4 bits to a byte, the first in the lower half, as ONNX and OpenVINO want it.

    Args:
        codes: from 0 to 15, or from -8 to 7; any shape.

    Returns:
        uint8, flat; an odd number of codes is filled up with zero.
    """
    nibbles = np.zeros(2 * math.ceil(codes.size / 2), np.uint8)
    nibbles[: codes.size] = codes.reshape(-1).astype(np.uint8) & 0xF
    return nibbles[0::2] | (nibbles[1::2] << 4)
