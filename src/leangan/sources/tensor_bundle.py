"""The values of TensorFlow's checkpoints: an index, a sorted table, and files of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leangan.sources.crc32c import crc32c
from leangan.sources.protobuf import Message, number

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48  # bytes
_MOST_INDEX = 16 * 2**20  # bytes, of the file and of all its keys; 20,000 variables take 3 MB
_MOST_TEXT = 64 * 2**20  # bytes
_MOST_READ = 16  # times the size of all files: layers may share their values, but not without end
_MOST_AXES = 32
_TYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 14: "<u2",
    17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip
_TEXT, _BFLOAT16 = 7, 14


class Damaged(ValueError):
    """What a file says cannot be; the message goes on after the file's name."""


@dataclass
class TensorBundle:
    """Values by key."""

    prefix: Path
    """The path of all files, without `.index` and `.data-...`."""
    entries: Mapping[str, Message]
    shards: int
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        files = self.prefix.parent.glob(f"{self.prefix.name}.data-*")
        self._left = _MOST_READ * sum(file.stat().st_size for file in files if file.is_file())

    def text(self, key: str) -> bytes:
        """A single text.

        Raises:
            Damaged: there is none, or its checksum is another.
        """
        entry = self._entry(key)
        if entry.whole(5) > _MOST_TEXT:
            raise Damaged(f"{key!r} is too large to be one")
        data = memoryview(self._bytes(key, entry))
        size, start = number(data, 0)
        text = data[start + 4 :]
        axes = [axis for shape in entry.messages(2) for axis in shape.all(2)]
        if entry.whole(1) != _TEXT or axes or size != len(text):
            raise Damaged(f"{key!r} is no text")
        # The size is summed as a number of fixed length.
        fixed = size.to_bytes(4, "little")
        _check(entry.whole(6), b"".join((fixed, data[start : start + 4], text)), repr(key))
        return bytes(text)

    def array(self, key: str) -> np.ndarray:
        """The numbers of a variable; bfloat16 as float32.

        Raises:
            Damaged: there are none, they are cut short, or their checksum is another.
        """
        entry = self._entry(key)
        if entry.all(7):
            raise Damaged(f"{key!r} is stored in slices, which are not read")
        if entry.whole(1) not in _TYPES:
            raise Damaged(f"{key!r} holds no numbers")
        kind = np.dtype(_TYPES[entry.whole(1)])
        shape = [size.whole(1) for part in entry.messages(2) for size in part.messages(2)]
        sized = len(shape) <= _MOST_AXES and min(shape, default=0) >= 0
        if not sized or math.prod(shape) * kind.itemsize != entry.whole(5):
            raise Damaged(f"{key!r} has not the size that its shape says")
        data = self._bytes(key, entry)
        _check(entry.whole(6), data, repr(key))
        values = np.frombuffer(data, kind).reshape(shape)
        if entry.whole(1) == _BFLOAT16:  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def _entry(self, key: str) -> Message:
        if key not in self.entries:
            raise Damaged(f"there is no value {key!r}")
        return self.entries[key]

    def _bytes(self, key: str, entry: Message) -> bytes:
        shard, start, size = (entry.whole(number) for number in (3, 4, 5))
        name = f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}"
        path = self.prefix.with_name(name)
        if not 0 <= shard < self.shards or not path.is_file():
            raise Damaged(f"{name}, which holds {key!r}, is missing")
        if min(start, size) < 0 or start + size > path.stat().st_size:
            raise Damaged(f"{name} is cut short at {key!r}")
        self._left -= size
        if self._left < 0:
            raise Damaged("its values are larger than its files")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def read_bundle(prefix: Path) -> TensorBundle:
    """Read the index of the files that begin with `prefix`.

    Raises:
        Damaged: it is missing, cut short, or of another form; a sum does not fit.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.is_file():
        raise Damaged(f"{index.name} is missing")
    if index.stat().st_size > _MOST_INDEX:
        raise Damaged(f"{index.name} is too large to be one")
    entries = {
        key.decode(errors="replace"): Message(value) for key, value in _table(index.read_bytes())
    }
    header = entries.pop("", None)
    if header is None or header.whole(2):
        raise Damaged(f"{index.name} has no header of a little-endian machine")
    return TensorBundle(prefix, entries, header.whole(1))


def _table(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a table of LevelDB's form."""
    whole = memoryview(data)
    footer = whole[-_FOOTER:]
    if len(footer) < _FOOTER or footer[-8:] != _MAGIC:
        raise Damaged("its index is cut short")
    at = 0
    for _ in range(2):  # the place of a table of names, which is empty
        _, at = number(footer, at)
    end = keys = 0
    for _, place in _block(whole, footer[at:]):
        start, at = number(place, 0)
        if start < end:  # read twice, a few bytes could be any number of keys
            raise Damaged("the blocks of its index overlap")
        for key, value in _block(whole, place):
            keys += len(key)
            if keys > _MOST_INDEX:
                raise Damaged("the keys of its index are too long")
            yield key, value
        end = start + number(place, at)[0]


def _block(data: memoryview, place: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of the block whose start and size stand in `place`."""
    start, at = number(place, 0)
    size, _ = number(place, at)
    if start + size + 5 > len(data):
        raise Damaged("its index is cut short")
    block, kind = data[start : start + size], data[start + size]
    if kind:
        raise Damaged("its index is compressed")
    stored = int.from_bytes(data[start + size + 1 : start + size + 5], "little")
    _check(stored, data[start : start + size + 1], "its index")
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = number(block, at)
        own, at = number(block, at)
        length, at = number(block, at)
        if shared > len(key) or at + own + length > end:
            raise Damaged("an entry of its index goes past its block")
        key = key[:shared] + bytes(block[at : at + own])
        yield key, block[at + own : at + own + length]
        at += own + length


def _check(stored: int, data: memoryview | bytes, what: str) -> None:
    """Compare with a checksum, which is stored turned and shifted."""
    crc = crc32c(data)
    if stored != ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF:
        raise Damaged(f"the checksum of {what} does not fit")
