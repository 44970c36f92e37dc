"""Indices of few bits as bytes: packed, or Huffman-coded where that is shorter.

No Huffman code is shorter than a bit. Where most indices are 0, as of pruned weights, eight times
"is it 0?" are one symbol, and the other indices follow.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from leangan.errors import LeanganError

PACKED, DEFLATED, SPLIT = 0, 1, 2
_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)
"""Frequencies alone, and repetitions too (zeros in patterns)."""
MOST_PER_BYTE = 64
"""No file may ask for much more memory than it has bytes."""
_LENGTH = struct.Struct("<I")


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
        codes: uint8, each below 2^bits. What is most frequent is best 0.
        bits: 1 to 8.
    """
    best = _encode(codes, bits)
    others = codes != 0
    if 2 * int(others.sum()) < len(codes):
        mask = _encode(np.packbits(others), 8)
        rest = _encode(codes[others] - np.uint8(1), bits)
        split = bytes([SPLIT]) + _LENGTH.pack(len(mask)) + mask + rest
        if len(codes) <= MOST_PER_BYTE * len(split):
            best = min(best, split, key=len)
    return best


def _encode(codes: np.ndarray, bits: int) -> bytes:
    best = bytes([PACKED]) + pack(codes, bits)
    for strategy in _STRATEGIES:
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        coded = bytes([DEFLATED]) + coder.compress(codes.tobytes()) + coder.flush()
        if len(codes) <= MOST_PER_BYTE * len(coded):
            best = min(best, coded, key=len)
    return best


def decode(payload: bytes, count: int, bits: int) -> np.ndarray:
    """What `encode` was given: uint8 (count,). Never takes more memory than that many codes.

    Raises:
        LeanganError: the payload is not that of so many codes of so many bits.
    """
    if payload[:1] != bytes([SPLIT]):
        return _decode(payload, count, bits)
    if count > MOST_PER_BYTE * len(payload):
        raise LeanganError("codes would expand to more than so few bytes may")
    start = 1 + _LENGTH.size
    if len(payload) < start:
        raise LeanganError("codes are cut short")
    end = start + _LENGTH.unpack_from(payload, 1)[0]
    mask = np.unpackbits(_decode(payload[start:end], -(-count // 8), 8))
    if mask[count:].any():
        raise LeanganError("codes have something behind their end")
    others = mask[:count].astype(bool)
    rest = _decode(payload[end:], int(others.sum()), bits)
    if len(rest) and int(rest.max()) >= 2**bits - 1:
        raise LeanganError("a code points outside of its codebook")
    codes = np.zeros(count, np.uint8)
    codes[others] = rest + np.uint8(1)
    return codes


def _decode(payload: bytes, count: int, bits: int) -> np.ndarray:
    if not payload or payload[0] not in (PACKED, DEFLATED):
        raise LeanganError("codes are stored in a way that is not known")
    if payload[0] == PACKED:
        return unpack(payload[1:], count, bits)
    if count > MOST_PER_BYTE * len(payload):
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
