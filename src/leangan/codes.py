"""Indices of few bits as bytes: packed, or Huffman-coded where that is shorter."""

from __future__ import annotations

import zlib

import numpy as np

from leangan.errors import LeanganError

PACKED, DEFLATED = 0, 1
_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)
"""Frequencies alone, and repetitions too (zeros in patterns)."""
_MOST_PER_BYTE = 64
"""No file may ask for much more memory than it has bytes."""


def pack(codes: np.ndarray, bits: int) -> bytes:
    """Each code in `bits` bits, the highest bit first; zero bits fill the last byte.

    Args:
        codes: uint8, each below 2^bits.
        bits: 1 to 8.
    """
    return np.packbits(np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]).tobytes()


def unpack(payload: bytes, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack`: uint8 (count,).

    Raises:
        LeanganError: the payload is not that of so many codes.
    """
    if len(payload) != -(-count * bits // 8):
        raise LeanganError("packed codes are cut short or too long")
    there = np.unpackbits(np.frombuffer(payload, np.uint8))
    if there[count * bits :].any():
        raise LeanganError("packed codes have something behind their end")
    whole = np.zeros((count, 8), np.uint8)
    whole[:, 8 - bits :] = there[: count * bits].reshape(count, bits)
    return np.packbits(whole)


def encode(codes: np.ndarray, bits: int) -> bytes:
    """A byte that says how, then the codes in as few bytes as were found.

    Args:
        codes: uint8, each below 2^bits.
        bits: 1 to 8.
    """
    best = bytes([PACKED]) + pack(codes, bits)
    for strategy in _STRATEGIES:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        coded = bytes([DEFLATED]) + coder.compress(codes.tobytes()) + coder.flush()
        if len(codes) <= _MOST_PER_BYTE * len(coded):
            best = min(best, coded, key=len)
    return best


def decode(payload: bytes, count: int, bits: int) -> np.ndarray:
    """What `encode` was given: uint8 (count,). Never takes more memory than that many codes.

    Raises:
        LeanganError: the payload is not that of so many codes of so many bits.
    """
    if not payload or payload[0] not in (PACKED, DEFLATED):
        raise LeanganError("codes are stored in a way that is not known")
    if payload[0] == PACKED:
        return unpack(payload[1:], count, bits)
    if count > _MOST_PER_BYTE * len(payload):
        raise LeanganError("codes would expand to more than so few bytes may")
    coder = zlib.decompressobj(-15)
    try:
        found = coder.decompress(payload[1:], count + 1)
    except zlib.error as error:
        raise LeanganError(f"codes cannot be expanded ({error})") from error
    if len(found) != count or not coder.eof or coder.unused_data:
        raise LeanganError("codes are cut short or too long")
    codes = np.frombuffer(found, np.uint8)
    if count and int(codes.max()) >= 2**bits:
        raise LeanganError("a code points outside of its codebook")
    return codes
