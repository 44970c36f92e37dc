"""Operators that put numbers elsewhere, as fixed-point operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from leangan.graph.operators import arguments, aten, is_call
from leangan.runtimes.fixed.network import (
    Framed,
    Operation,
    Repeated,
    Reshaped,
    Transposed,
)

if TYPE_CHECKING:
    from leangan.runtimes.fixed.read import Reader


def shape_of(node: Node) -> tuple[int, ...]:
    """Of a value, without the batch."""
    return tuple(int(n) for n in node.meta["val"].shape[1:])


def last(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with the channels last."""
    return (*sizes[1:], sizes[0])


def read_nothing(reader: Reader, node: Node) -> None:
    """What changes no number."""
    before, _ = reader.source(node)
    reader.done[node] = reader.done[before]


def read_view(reader: Reader, node: Node) -> None:
    """Another shape: maps are read channel by channel, as PyTorch lays them out."""
    before, x = reader.source(node)
    old, new = shape_of(before), shape_of(node)
    if len(new) not in (1, 3):
        raise reader.refused(node, f"it gives {len(new)} axes, and only vectors and maps are known")
    if old != new:
        if len(old) == 3 and _has_order(old):
            x = _transposed(reader, x, f"{node.name}_channels_first", (2, 0, 1))
        if len(new) == 3 and _has_order(new):
            x = _reshaped(reader, x, f"{node.name}_map", new)
            x = _transposed(reader, x, node.name, (1, 2, 0))
        else:
            x = _reshaped(reader, x, node.name, last(new))
    reader.done[node] = x.name


def read_shuffle(reader: Reader, node: Node) -> None:
    """Depth to space: channel c * r * r + a * r + b is row a and column b of a block."""
    _, x = reader.source(node)
    r = arguments(node)["upscale_factor"]
    height, width, channels = x.shape
    x = _reshaped(reader, x, f"{node.name}_split", (height, width, channels // (r * r), r, r))
    x = _transposed(reader, x, f"{node.name}_blocks", (0, 3, 1, 4, 2))
    reader.done[node] = _reshaped(reader, x, node.name, last(shape_of(node))).name


def read_upsample(reader: Reader, node: Node) -> None:
    """Nearest upsampling."""
    _, x = reader.source(node)
    sizes = last(shape_of(node))
    if any(new % old for new, old in zip(sizes, x.shape, strict=True)):
        raise reader.refused(node, "only whole factors are known")
    factors = (sizes[0] // x.shape[0], sizes[1] // x.shape[1])
    reader.add(node, Repeated(node.name, (x.name,), sizes, x.format, factors))


def read_frame(reader: Reader, node: Node) -> None:
    """Zero padding, and a slice of rows or columns."""
    _, x = reader.source(node)
    named = arguments(node)
    if is_call(node, aten.pad):
        zeros = named["mode"] == "constant" and not named["value"]
        if not zeros or len(x.shape) != 3 or any(named["pad"][4:]):
            raise reader.refused(node, "only zeros around rows and columns are known")
        left, right, top, bottom = [*named["pad"], 0, 0][:4]
    else:
        if named["dim"] not in (2, 3) or named["step"] != 1:
            raise reader.refused(node, "only slices of rows or columns are known")
        size = x.shape[named["dim"] - 2]
        start, stop, _ = slice(named["start"], named["end"]).indices(size)
        sides = (-start, stop - size)
        top, bottom, left, right = (*sides, 0, 0) if named["dim"] == 2 else (0, 0, *sides)
    if min(top, bottom, left, right) < 0 < max(top, bottom, left, right):
        raise reader.refused(node, "it pads and crops at once")
    around = (top, bottom, left, right)
    reader.add(node, Framed(node.name, (x.name,), last(shape_of(node)), x.format, around))


def _has_order(sizes: tuple[int, ...]) -> bool:
    """Whether it makes a difference that channels come first."""
    return sizes[0] > 1 and sizes[1] * sizes[2] > 1


def _reshaped(reader: Reader, x: Operation, name: str, sizes: tuple[int, ...]) -> Operation:
    reader.operations[name] = Reshaped(name, (x.name,), sizes, x.format)
    return reader.operations[name]


def _transposed(reader: Reader, x: Operation, name: str, order: tuple[int, ...]) -> Operation:
    sizes = tuple(x.shape[axis] for axis in order)
    reader.operations[name] = Transposed(name, (x.name,), sizes, x.format, order)
    return reader.operations[name]
