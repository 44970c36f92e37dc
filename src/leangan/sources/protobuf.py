"""Protocol buffers as they lie in a file: fields by number, with nothing known of their types."""

from __future__ import annotations

from collections import defaultdict

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_LONGEST = 10  # bytes of a number of 64 bits


class Message:
    """The fields of one message; those inside of it stay bytes until they are asked for.

    Raises:
        ValueError: it is cut short, or no message.
    """

    def __init__(self, data: memoryview | bytes) -> None:
        self._fields: dict[int, list[int | memoryview]] = defaultdict(list)
        data, at = memoryview(data), 0
        while at < len(data):
            tag, at = number(data, at)
            kind = tag & 7
            if kind == _VARINT:
                value, at = number(data, at)
                self._fields[tag >> 3].append(value)
                continue
            if kind == _BYTES:
                size, at = number(data, at)
            elif kind in (_EIGHT, _FOUR):
                size = 8 if kind == _EIGHT else 4
            else:
                raise ValueError(f"a field of the unknown kind {kind}")
            if size > len(data) - at:
                raise ValueError("a field goes past its message")
            self._fields[tag >> 3].append(data[at : at + size])
            at += size

    def all(self, field: int) -> list[memoryview]:
        """The bytes of each time that a field of text, bytes or messages stands there."""
        found = [v for v in self._fields.get(field, []) if not isinstance(v, int)]
        if len(found) != len(self._fields.get(field, [])):
            raise ValueError(f"field {field} is a number")
        return found

    def messages(self, field: int) -> list[Message]:
        """The messages that stand there."""
        return [Message(data) for data in self.all(field)]

    def text(self, field: int) -> str:
        """The text that stands there last, empty where none does."""
        found = self.all(field)
        try:
            return bytes(found[-1]).decode() if found else ""
        except UnicodeDecodeError as error:
            raise ValueError(f"field {field} is no text") from error

    def whole(self, field: int) -> int:
        """The whole number that stands there last, 0 where none does; of fixed size or not."""
        value = (self._fields.get(field) or [0])[-1]
        if not isinstance(value, int):
            if len(value) > 8:
                raise ValueError(f"field {field} is no number")
            return int.from_bytes(value, "little")
        return value - 2**64 if value >= 2**63 else value


def number(data: memoryview, at: int) -> tuple[int, int]:
    """The number of variable length that begins at `at`, and where it ends.

    Raises:
        ValueError: it does not end.
    """
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value & (2**64 - 1), at + place + 1
    raise ValueError("a number is cut short")
