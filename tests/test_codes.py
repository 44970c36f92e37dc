"""Indices as bytes: the same back, near their entropy, and hostile bytes are refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from leangan import codes, compact
from leangan.errors import LeanganError


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1001])
def test_packing_is_exact_and_takes_its_bits(bits, count):
    drawn = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint8)
    packed = codes.pack(drawn, bits)
    assert len(packed) == -(-count * bits // 8)
    assert np.array_equal(codes.unpack(packed, count, bits), drawn)
    assert np.array_equal(codes.decode(codes.encode(drawn, bits), count, bits), drawn)


def test_even_codes_are_packed_and_uneven_ones_near_their_entropy():
    rng = np.random.default_rng(0)
    even = rng.integers(0, 16, 20_000).astype(np.uint8)
    assert len(codes.encode(even, 4)) <= 10_001
    chance = np.array([0.5, *[0.5 / 15] * 15])
    uneven = rng.choice(16, 20_000, p=chance).astype(np.uint8)
    entropy = -(chance * np.log2(chance)).sum() * 20_000 / 8
    assert entropy < len(codes.encode(uneven, 4)) < 1.06 * entropy


def test_zeros_may_take_less_than_a_bit_each():
    rng = np.random.default_rng(0)
    chance = np.array([0.9, *[0.1 / 15] * 15])
    drawn = rng.choice(16, 20_000, p=chance).astype(np.uint8)
    entropy = -(chance * np.log2(chance)).sum() * 20_000 / 8
    coded = codes.encode(drawn, 4)
    assert coded[0] == codes.SPLIT
    assert entropy * 0.95 < len(coded) < 1.1 * entropy
    assert np.array_equal(codes.decode(coded, len(drawn), 4), drawn)


def split(mask, rest, length=None):
    size = struct.pack("<I", len(mask) + 1 if length is None else length)
    return b"\x02" + size + b"\0" + mask + b"\0" + rest


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"\x02", 4),
        (split(b"\x50", b"\x12", 99), 4),
        (split(b"\x50\0", b"\x12"), 4),  # too long a mask
        (split(b"\x51", b"\x12"), 4),  # something behind its end
        (split(b"\x70", b"\x12"), 4),  # one code is missing
        (split(b"\x50", b"\x1f"), 4),  # outside of 4 bits
        (b"\x02" + struct.pack("<I", 2) + b"\0\x50\x02" + bytes(8), 4),  # split again
        (split(b"\x50", b"\x12"), 1 << 40),  # a bomb
    ],
)
def test_hostile_split_codes_are_refused(payload, count):
    assert codes.decode(split(b"\x50", b"\x12"), 4, 4).tolist() == [0, 2, 0, 3]
    with pytest.raises(LeanganError):
        codes.decode(payload, count, 4)


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"", 4),
        (b"\x07\x00\x00", 4),
        (b"\x00\x00", 4),  # too short
        (b"\x00\x00\x00\x00", 4),  # too long
        (b"\x00\x00\x0f", 3),  # something behind the end
        (b"\x01garbage", 4),
        (b"\x01" + zlib.compress(bytes(4))[2:-4] + b"x", 4),  # something behind the end
        (b"\x01" + zlib.compress(bytes(5))[2:-4], 4),
        (b"\x01" + zlib.compress(bytes(3))[2:-4], 4),
        (b"\x01" + zlib.compress(bytes([1, 2, 3, 16]))[2:-4], 4),  # outside of 4 bits
        (b"\x01" + zlib.compress(bytes(1 << 20))[2:-4], 1 << 20),  # a bomb
    ],
)
def test_hostile_codes_are_refused(payload, count):
    with pytest.raises(LeanganError):
        codes.decode(payload, count, 4)


def levels(shape, groups, axis, dtype=np.float32, number=16):
    """A tensor whose groups of channels have few values each."""
    rng = np.random.default_rng(0)
    parts = np.split(np.empty(shape, dtype), groups, axis)
    for part in parts:
        part[...] = rng.normal(size=number).astype(dtype)[rng.integers(0, number, part.shape)]
    return np.concatenate(parts, axis)


@pytest.mark.parametrize(
    ("shape", "groups", "axis"), [((64, 32, 9), 1, 0), ((64, 32, 9), 16, 0), ((32, 64, 9), 16, 1)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_groups_are_found_by_themselves(shape, groups, axis, dtype):
    values = levels(shape, groups, axis, dtype)
    name, payload = compact.encode(values.tobytes(), values.itemsize, shape)
    assert name == "codebook"
    books = groups * 16 * values.itemsize
    assert len(payload) < values.size / 2 + books + 64
    assert compact.decode(name, payload, values.size, values.itemsize) == values.tobytes()


def test_zero_costs_little_wherever_it_stands_among_the_levels():
    rng = np.random.default_rng(0)
    values = levels((64, 32, 9), 64, 0)
    values[:, 0, 0] = np.linspace(-2, 2, 64)  # a value of each group's own
    values[rng.random(values.shape) < 0.8] = 0
    _, payload = compact.encode(values.tobytes(), 4, values.shape)
    entropy = values.size * (0.2 * 4 + 0.722) / 8
    assert len(payload) < 1.1 * entropy + 64 * 17 * 4
    assert compact.decode("codebook", payload, values.size, 4) == values.tobytes()


def payload_of_levels():
    values = levels((8, 16, 9), 2, 0)
    return values.size, compact.encode(values.tobytes(), 4, values.shape)[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: b"",
        lambda p: p[:10],
        lambda p: p[:20],
        lambda p: p[:-1],
        lambda p: b"\x09" + p[1:],
        lambda p: b"\x00" + p[1:],
        lambda p: p[:1] + b"\x08" + p[2:],
        lambda p: p[:2] + b"\xff\xff\xff\xff" + p[6:],
        lambda p: p[:6] + b"\x04\0\0\0" + p[10:],
        lambda p: p[:14] + b"\xff\xff\xff\xff" + p[18:],  # a length of a plane
        lambda p: p[:14] + b"\0\0\0\0" + p[18:],
        lambda p: p[:18],
    ],
)
def test_hostile_codebooks_are_refused(change):
    count, payload = payload_of_levels()
    with pytest.raises(LeanganError):
        compact.decode("codebook", change(payload), count, 4)
