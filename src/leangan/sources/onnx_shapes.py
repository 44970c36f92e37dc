"""ONNX operators that make shapes, and that move, join and choose values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.sources.onnx_host import (
    MOST,
    Host,
    Value,
    objects,
    rank_of,
    sizes_of,
    tensor_of,
    whole,
)
from leangan.sources.onnx_model import OnnxNode

_FLOATS = (1, 10, 11, 16)  # float, float16, double, bfloat16: all float32 here
_BOOL = 9
_LAST = 2**31 - 1


def cast(node: OnnxNode, x: Value) -> Value:
    """To another type of number; all floats are float32 here."""
    to = node.attributes["to"]
    if isinstance(x, Host):
        if to in _FLOATS:
            return Host(x.values, True)
        if to == _BOOL:
            return Host(_objects_like(x, [bool(v) for v in x.list()]))
        return whole(x) if x.floating else x
    if to in _FLOATS:
        return x.to(torch.float32)
    return x.to(torch.bool if to == _BOOL else torch.int64)


def _objects_like(x: Host, values: list[Any]) -> Any:
    return objects(values).reshape(x.values.shape)


def shape(node: OnnxNode, x: Value) -> Host:
    """Sizes of a value, or some of them."""
    sizes = sizes_of(x) if isinstance(x, Tensor) else Host.of(list(x.values.shape))
    return Host(sizes.values[node.get("start", 0) : node.get("end", None)])


def size(node: OnnxNode, x: Value) -> Host:
    """The number of elements."""
    return Host(objects(math.prod(shape(node, x).list())))


def reshape(node: OnnxNode, x: Value, shape: Host) -> Value:
    """0 keeps a size, -1 takes what is left."""
    sizes = shape.list()
    if isinstance(x, Host):
        return Host(x.values.reshape([int(s) for s in sizes]), x.floating)
    zeros = bool(node.get("allowzero", 0))
    sizes = [x.shape[i] if _is(s, 0) and not zeros else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and size == number


def flatten(node: OnnxNode, x: Tensor) -> Tensor:
    """To two axes."""
    axis = node.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(node: OnnxNode, x: Value) -> Value:
    """Axes in another order."""
    perm = node.get("perm", list(range(rank_of(x)))[::-1])
    if isinstance(x, Host):
        return Host(x.values.transpose(perm), x.floating)
    return x.permute(perm)


def _axes(node: OnnxNode, axes: Host | None) -> list[int] | None:
    found = axes.list() if axes is not None else node.get("axes", None)
    return None if found is None else [int(a) for a in found]


def squeeze(node: OnnxNode, x: Value, axes: Host | None = None) -> Value:
    """Without axes of size 1."""
    where = _axes(node, axes)
    if isinstance(x, Host):
        shape = x.values.squeeze(tuple(where) if where else None)
        return Host(shape, x.floating)
    where = [i for i, s in enumerate(x.shape) if _is(s, 1)] if where is None else where
    return x.squeeze(where)


def unsqueeze(node: OnnxNode, x: Value, axes: Host | None = None) -> Value:
    """With more axes of size 1."""
    where = _axes(node, axes) or []
    rank = rank_of(x) + len(where)
    for axis in sorted(a % rank for a in where):
        if isinstance(x, Host):
            x = Host(x.values[(slice(None),) * axis + (None,)], x.floating)
        else:
            x = x.unsqueeze(axis)
    return x


def expand(node: OnnxNode, x: Value, shape: Host) -> Tensor:
    """Repeated along axes of size 1."""
    tensor, wanted = tensor_of(x), shape.list()
    while tensor.dim() < len(wanted):
        tensor = tensor.unsqueeze(0)
    wanted = [1] * (tensor.dim() - len(wanted)) + wanted
    return tensor.expand([s if _is(w, 1) else w for s, w in zip(tensor.shape, wanted, strict=True)])


def concat(node: OnnxNode, *values: Value) -> Value:
    """Side by side along an axis."""
    if all(isinstance(v, Host) for v in values):
        arrays = [v.values for v in values if isinstance(v, Host)]
        floating = any(isinstance(v, Host) and v.floating for v in values)
        joined = np.concatenate(arrays, node.attributes["axis"])
        return Host(joined, floating)
    return torch.cat([tensor_of(v) for v in values], node.attributes["axis"])


def split(node: OnnxNode, x: Value, sizes: Host | None = None) -> tuple[Any, ...]:
    """Parts along an axis."""
    axis = node.get("axis", 0)
    given = sizes.list() if sizes is not None else node.get("split", None)
    length = x.shape[axis] if isinstance(x, Tensor) else x.values.shape[axis]
    if given is None:
        count = len(node.outputs)
        each = -(-length // count)
        given = [each] * (count - 1) + [length - each * (count - 1)]
    if isinstance(x, Host):
        places = np.cumsum([int(n) for n in given])[:-1]
        return tuple(Host(part, x.floating) for part in np.split(x.values, places, axis))
    return torch.split(x, list(given), axis)


def slice_(
    node: OnnxNode,
    x: Value,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Value:
    """A part, in steps, or the whole backwards."""
    first = starts.list() if starts is not None else node.attributes["starts"]
    last = ends.list() if ends is not None else node.attributes["ends"]
    where = axes.list() if axes is not None else node.get("axes", range(len(first)))
    step = steps.list() if steps is not None else [1] * len(first)
    index: list[Any] = [slice(None)] * rank_of(x)
    backwards = []
    for axis, a, b, s in zip(where, first, last, step, strict=True):
        end = None if isinstance(b, int) and (b >= _LAST or (s < 0 and b <= -_LAST)) else b
        start = None if s < 0 and isinstance(a, int) and a >= _LAST else a
        if s < 0 and isinstance(x, Tensor):
            if (start not in (None, -1)) or end is not None or s != -1:
                raise LeanganError("it walks backwards over a part, which is not read")
            backwards.append(int(axis))
        else:
            index[int(axis)] = slice(start, end, s)
    if isinstance(x, Host):
        return Host(x.values[tuple(index)], x.floating)
    y = x[tuple(index)]
    return y.flip(backwards) if backwards else y


def gather(node: OnnxNode, x: Value, indices: Value) -> Value:
    """Chosen places along an axis."""
    axis = node.get("axis", 0)
    if isinstance(x, Host):
        if not isinstance(indices, Host):
            return gather(node, x.tensor(), indices)
        picked = np.take(x.values, _whole_array(indices), axis)
        return Host(picked if isinstance(picked, np.ndarray) else objects(picked), x.floating)
    if isinstance(indices, Host):
        if indices.values.ndim == 0:
            return x.select(axis, indices.item())
        length = x.shape[axis]
        numbers = [i + length if isinstance(i, int) and i < 0 else i for i in indices.list()]
        flat, shape = Host(objects(numbers)).tensor(), indices.values.shape
    else:
        flat, shape = indices.reshape(-1).to(torch.int64), tuple(indices.shape)
    axis %= x.dim()
    picked = x.index_select(axis, flat)
    if len(shape) == 1:
        return picked
    return picked.reshape([*x.shape[:axis], *shape, *x.shape[axis + 1 :]])


def _whole_array(x: Host) -> Any:
    return np.array([int(v) for v in x.list()], dtype=np.int64).reshape(x.values.shape)


def constant_of_shape(node: OnnxNode, shape: Host) -> Value:
    """One number everywhere."""
    value = node.get("value", None)
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    sizes = shape.list()
    known = all(isinstance(s, int) for s in sizes)
    if known and not isinstance(fill, float) and len(sizes) <= 1 and math.prod(sizes) <= MOST:
        return Host(objects([fill] * math.prod(sizes))) if sizes else Host(objects(fill))
    return torch.full(sizes, fill)


def range_(node: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    """Numbers in even steps."""
    ends: list[Any] = [v.item() for v in (start, limit, delta)]
    floating = any(isinstance(v, Host) and v.floating for v in (start, limit, delta))
    if all(isinstance(e, int) for e in ends) and 0 < (ends[1] - ends[0]) / ends[2] <= MOST:
        return Host(objects(list(range(*ends))))
    return torch.arange(*ends, dtype=torch.float32 if floating else torch.int64)


def where(node: OnnxNode, condition: Value, a: Value, b: Value) -> Tensor:
    """Of two values, by a condition."""
    if isinstance(condition, Host) and condition.values.size == 1 and rank_of(condition) == 0:
        return tensor_of(a) if condition.item() else tensor_of(b)
    x, y = tensor_of(a), tensor_of(b)
    return torch.where(tensor_of(condition), x, y)


def tile(node: OnnxNode, x: Value, repeats: Host) -> Tensor:
    """Repeated as a whole."""
    return tensor_of(x).repeat(repeats.list())
