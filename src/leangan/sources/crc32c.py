"""The checksum that TensorFlow writes beside what it stores."""

from __future__ import annotations

import math

import numpy as np

_SHORTEST = 16  # bytes of a lane: fewer are not worth a step of NumPy
_START = bytes.fromhex("54641f64")  # after these bytes the remainder is all ones, as it begins
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    _TABLE = np.where(_TABLE & 1, _TABLE >> 1 ^ np.uint32(0x82F63B78), _TABLE >> 1)


def crc32c(data: memoryview | bytes) -> int:
    """The CRC-32C of some bytes; 100 MB take about a second.

    The bytes are cut into lanes of one length, which are walked beside each other. The remainder
    of a lane counts moved over the bytes behind it. That move is linear in the 32 bits, so walking
    each bit over the zeros of one lane tells it.
    """
    size = len(_START) + len(data)
    length = max(math.isqrt(size), _SHORTEST)
    padded = np.zeros(-(-size // length) * length, np.uint8)  # zeros in front change nothing
    padded[-size:] = np.frombuffer(_START + bytes(data), np.uint8)
    lanes = padded.reshape(-1, length)
    state = np.concatenate([np.zeros(len(lanes), np.uint32), _BITS])
    zeros = np.zeros(32, np.uint8)
    for column in np.ascontiguousarray(lanes.T):
        state = _TABLE[(state ^ np.concatenate([column, zeros])) & 255] ^ state >> 8
    state, move = state[:-32], state[-32:]
    while len(state) > 1:
        state = np.concatenate([np.zeros(len(state) % 2, np.uint32), state])
        state = _moved(state[::2], move) ^ state[1::2]
        move = _moved(move, move)
    return int(state[0]) ^ 0xFFFFFFFF


def _moved(state: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The remainders after as many zeros as `move` has walked each bit over."""
    made = np.zeros_like(state)
    for bit, moved in zip(_BITS, move, strict=True):
        made ^= np.where(state & bit, moved, 0).astype(np.uint32)
    return made
