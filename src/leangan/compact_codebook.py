"""A weight of few different values as codebooks and indices: a form for compact.py."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from leangan import codes
from leangan.errors import LeanganError

_HEADER = struct.Struct("<BBIII")
"""Bits, bytes per level, and the parting of the tensor as (outer, groups, inner)."""
_LENGTH = struct.Struct("<I")
_MOST = 256


@dataclass(frozen=True)
class Codebook:
    """Per group of neighbouring channels the different values, the most frequent first; indices.

    The tensor is seen as (outer, groups, inner). Of values whose lower halves are all zero
    (float32 that bfloat16 can hold) the upper halves are stored. First bytes of all values, second
    bytes and so on are coded apart: signs and exponents are much alike. Indices by frequency are
    alike in all groups too, wherever zero stands.
    """

    name: str = "codebook"

    def encode(self, elements: np.ndarray, shape: tuple[int, ...]) -> bytes | None:
        """The payload under the best parting; None where no parting has few values."""
        best = best_grouping(elements, shape)
        if best is None:
            return None
        parting, books = best
        bits, width = _bits(books), _width(books, elements.dtype)
        table = np.zeros((len(books), 2**bits), elements.dtype)
        indices = np.empty(parting, np.uint8)
        lined = elements.reshape(parting)
        for group, book in enumerate(books):
            found = np.searchsorted(book, lined[:, group])
            order = np.argsort(-np.bincount(found.reshape(-1), minlength=len(book)), kind="stable")
            table[group, : len(book)] = book[order]
            indices[:, group] = np.argsort(order).astype(np.uint8)[found]
        if width < elements.itemsize:
            table = (table >> 16).astype("<u2")
        # Codes of one group follow each other: their frequencies are alike.
        ordered = np.ascontiguousarray(indices.transpose(1, 0, 2)).reshape(-1)
        header = _HEADER.pack(bits, width, *parting)
        planes = table.view(np.uint8).reshape(-1, width).T
        coded = [codes.encode(np.ascontiguousarray(plane), 8) for plane in planes]
        lengths = b"".join(_LENGTH.pack(len(one)) for one in coded)
        return header + lengths + b"".join(coded) + codes.encode(ordered, bits)

    def decode(self, payload: bytes, count: int, dtype: np.dtype) -> np.ndarray:
        """The elements; LeanganError where sizes, codebooks and codes do not belong together."""
        if len(payload) < _HEADER.size:
            raise LeanganError("a codebook weight is cut short")
        bits, width, outer, groups, inner = _HEADER.unpack_from(payload)
        if not 1 <= bits <= 8 or width not in (2, dtype.itemsize) or width > dtype.itemsize:
            raise LeanganError("a codebook weight has a header that makes no sense")
        if outer * groups * inner != count:
            raise LeanganError("a codebook weight's parting is not that of its shape")
        if groups * 2**bits * width > codes.MOST_PER_BYTE * len(payload):
            raise LeanganError("codebooks would expand to more than so few bytes may")
        stored = np.empty((groups * 2**bits, width), np.uint8)
        end = _HEADER.size + width * _LENGTH.size
        if len(payload) < end:
            raise LeanganError("a codebook weight is cut short")
        for plane in range(width):
            (length,) = _LENGTH.unpack_from(payload, _HEADER.size + plane * _LENGTH.size)
            stored[:, plane] = codes.decode(payload[end : end + length], len(stored), 8)
            end += length
        table = stored.view(f"<u{width}").astype(dtype).reshape(groups, 2**bits)
        if width < dtype.itemsize:
            table = table << 16
        ordered = codes.decode(payload[end:], count, bits).reshape(groups, outer * inner)
        taken = np.take_along_axis(table, ordered.astype(np.intp), 1)
        return taken.reshape(groups, outer, inner).transpose(1, 0, 2).reshape(-1)


def groupings(
    elements: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int, int], list[np.ndarray]]]:
    """The ways to part a tensor in which each group of neighbouring channels has few values.

    Args:
        elements: of the tensor, in its order, as unsigned integers.
        shape: of the tensor.

    Yields:
        (outer, groups, inner) that the tensor is seen as, and per group its different values,
        ascending as bits, at most 256.
    """
    # Codes of one byte are the same few in every channel: their steps stand elsewhere.
    partings = _partings(shape) if elements.itemsize > 1 else iter([(1, 1, elements.size)])
    for parting in partings:
        books = _books(elements.reshape(parting))
        if books is not None:
            yield parting, books


def best_grouping(
    elements: np.ndarray, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], list[np.ndarray]] | None:
    """The one of the `groupings` that takes the fewest bytes; None where there is none."""
    best: tuple[float, tuple[int, int, int], list[np.ndarray]] | None = None
    for parting, books in groupings(elements, shape):
        cost = elements.size * _bits(books) / 8 + parting[1] * _room(books, elements.dtype)
        if best is None or cost < best[0]:
            best = cost, parting, books
    return best and best[1:]


def _partings(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """The whole, then along the first and the second axis by every number that divides it."""
    count = math.prod(shape)
    yield 1, 1, count
    for axis in range(min(2, len(shape) - 1)):
        outer = math.prod(shape[:axis])
        for groups in range(2, shape[axis] + 1):
            if shape[axis] % groups == 0:
                yield outer, groups, count // outer // groups


def _books(lined: np.ndarray) -> list[np.ndarray] | None:
    """Per group its different values, None as soon as one has too many."""
    found = []
    for group in range(lined.shape[1]):
        part = lined[:, group].reshape(-1)
        # Most weights are no codebook's: a few of them show it.
        if len(np.unique(part[: 8 * _MOST])) > _MOST:
            return None
        book = np.unique(part)
        if len(book) > _MOST:
            return None
        found.append(book)
    return found


def _bits(books: list[np.ndarray]) -> int:
    return max(1, (max(map(len, books)) - 1).bit_length())


def _width(books: list[np.ndarray], dtype: np.dtype) -> int:
    halves = dtype.itemsize == 4 and not any((book & 0xFFFF).any() for book in books)
    return 2 if halves else dtype.itemsize


def _room(books: list[np.ndarray], dtype: np.dtype) -> int:
    return int(2 ** _bits(books) * _width(books, dtype))
