"""Weights in fewer bytes, bit for bit: forms that a generator file may store a tensor in.

A form sees bytes only. It is chosen when its payload is shorter than the tensor's own bytes, so
that nobody has to say that a generator is pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from leangan.compact_codebook import Codebook
from leangan.errors import LeanganError


class Form(Protocol):
    """One way to store the elements of a tensor."""

    @property
    def name(self) -> str:
        """The folder of such payloads in the file."""
        ...

    def encode(self, elements: np.ndarray, shape: tuple[int, ...]) -> bytes | None:
        """The payload of a flat array of unsigned integers; None where the form does not fit.

        Args:
            elements: of a tensor, in its order.
            shape: of the tensor.
        """
        ...

    def decode(self, payload: bytes, count: int, dtype: np.dtype) -> np.ndarray:
        """What `encode` was given.

        Args:
            payload: of a file that nobody vouches for.
            count: elements of the tensor, as the file's index says.
            dtype: of the elements, an unsigned integer.

        Raises:
            LeanganError: the payload is not that of so many elements.
        """
        ...


@dataclass(frozen=True)
class Sparse:
    """A bit per element that says whether it is not zero, then the elements that are not."""

    name: str = "sparse"

    def encode(self, elements: np.ndarray, shape: tuple[int, ...]) -> bytes | None:
        """Shorter as soon as more than one of 32 float32 elements is zero."""
        there = elements != 0  # of bits: a negative zero is kept
        return np.packbits(there).tobytes() + elements[there].tobytes()

    def decode(self, payload: bytes, count: int, dtype: np.dtype) -> np.ndarray:
        """The elements; LeanganError where bits and values do not belong together."""
        bits = -(-count // 8)
        if len(payload) < bits:
            raise LeanganError("a sparse weight is cut short")
        there = np.unpackbits(np.frombuffer(payload, np.uint8, bits))
        if there[count:].any() or len(payload) != bits + int(there.sum()) * dtype.itemsize:
            raise LeanganError("a sparse weight's bits and values do not belong together")
        elements = np.zeros(count, dtype)
        elements[there[:count].astype(bool)] = np.frombuffer(payload, dtype, offset=bits)
        return elements


_SIZES = (1, 2, 4)
"""Bytes of the elements that have forms."""
FORMS: tuple[Form, ...] = (Sparse(), Codebook())


def encode(
    raw: bytes, itemsize: int, shape: tuple[int, ...] | None = None
) -> tuple[str, bytes] | None:
    """The shortest form of a tensor's bytes and its payload; None where plain bytes are best."""
    if itemsize not in _SIZES or not raw:
        return None
    elements = np.frombuffer(raw, np.dtype(f"<u{itemsize}"))
    best: tuple[str, bytes] | None = None
    for form in FORMS:
        payload = form.encode(elements, elements.shape if shape is None else shape)
        if payload is not None and len(payload) < len(best[1] if best else raw):
            best = form.name, payload
    return best


def decode(name: str, payload: bytes, count: int, itemsize: int) -> bytes:
    """The bytes that `encode` was given.

    Raises:
        LeanganError: there is no such form, or the payload does not fit.
    """
    for form in FORMS:
        if form.name == name:
            if itemsize not in _SIZES:
                raise LeanganError(f"a {name} weight has elements of {itemsize} bytes")
            return form.decode(payload, count, np.dtype(f"<u{itemsize}")).tobytes()
    raise LeanganError(f"there is no form {name!r}")
