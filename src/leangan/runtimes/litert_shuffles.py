"""One operator for a pixel shuffle or unshuffle, where LiteRT's converter writes seven.

Its own steps for one pixel shuffle are four transpositions and three reshapings, each a copy of
the whole picture. As one DEPTH_TO_SPACE it is one copy, and phones' delegates take it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from leangan.runtimes.litert_file import add_constant, constant
from leangan.runtimes.litert_graph import File, operator

_MOVES = ("RESHAPE", "TRANSPOSE")
_ALONE = ("DEQUANTIZE", "LEAKY_RELU", "LOGISTIC", "QUANTIZE", "RELU", "TANH")
"""Kinds that compute each value from one value and no constant."""
_BESIDE = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "PRELU", "SUB")
"""Kinds that compute each value from one of each of their two inputs."""
_NHWC, _FROM_NCHW = (0, 1, 2, 3), (0, 2, 3, 1)
_LAYOUTS = (_NHWC, _FROM_NCHW)
"""Axes that make NHWC of what a chain begins or ends with."""

_Change = tuple[Any, int, int]
"""An operator, which of its inputs is a constant by channels, and their axis in it."""


def fuse_shuffles(model: Any) -> int:
    """Write the steps of pixel shuffles and unshuffles as DEPTH_TO_SPACE and SPACE_TO_DEPTH.

    What only moves values is followed on their places. The channels of these two lie phase by
    phase, those of a pixel shuffle do not: the convolution before a shuffle puts them out in that
    order, and those behind an unshuffle read them so. Where there is none the steps stay.

    Args:
        model: of `litert_file.unpack`; changed in place.

    Returns:
        The number of shuffles.
    """
    file, count = File(model), 0
    for op in list(file.graph.operators):
        chain = _chain(file, op)
        while len(chain) > 1 and not _fuse(file, chain):
            chain.pop()
        count += len(chain) > 1
    return count


def _chain(file: File, op: Any) -> list[Any]:
    """The operators from `op` on that only move values, one after the other."""
    chain: list[Any] = []
    while any(op is o for o in file.graph.operators) and file.kind(op) in _MOVES:
        chain.append(op)
        out = int(op.outputs[0])
        if file.maker(out) is None:
            break
        (op,) = file.readers[out]
    return chain


def _fuse(file: File, chain: Sequence[Any]) -> bool:
    start, end = int(chain[0].inputs[0]), int(chain[-1].outputs[0])
    if len(file.shape(start)) != 4 or len(file.shape(end)) != 4:
        return False
    for first in _LAYOUTS:
        shape = tuple(file.shape(start)[i] for i in first)
        before = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        moved = _moved(file, before.transpose(np.argsort(first)), chain)
        for last in _LAYOUTS:
            after = moved.transpose(last)
            up, down = after.shape[1] // shape[1], shape[1] // after.shape[1]
            if up > 1 and (order := _order(_to_depth(after, up), before)) is not None:
                ready = first == _NHWC and _reorder_before(file, start, order)
                kind, rate = "DEPTH_TO_SPACE", up
            elif down > 1 and (order := _order(after, _to_depth(before, down))) is not None:
                ready = last == _NHWC and _reorder_after(file, end, np.argsort(order))
                kind, rate = "SPACE_TO_DEPTH", down
            else:
                continue
            if ready or _same(order):
                file.replace(chain, _shuffle(file, kind, rate, (start, first), (end, last), after))
                return True
    return False


def _shuffle(
    file: File,
    kind: str,
    rate: int,
    begin: tuple[int, tuple[int, ...]],
    end: tuple[int, tuple[int, ...]],
    after: np.ndarray,
) -> list[Any]:
    """The operator, with a transposition before or behind it where tensors are not NHWC.

    Args:
        file: changed by the tensors between.
        kind: DEPTH_TO_SPACE or SPACE_TO_DEPTH.
        rate: of the shuffle.
        begin: the tensor that is read, and the axes that make NHWC of it.
        end: the tensor that is made, likewise.
        after: anything of the shape that the shuffle makes.
    """
    (x, first), (y, last) = begin, end
    options = "SpaceToDepthOptions" if kind == "SPACE_TO_DEPTH" else "DepthToSpaceOptions"
    made = []
    if first != _NHWC:
        inner = _tensor_like(file, x, [file.shape(x)[i] for i in first])
        made.append(_transpose(file, x, inner, np.array(first)))
        x = inner
    out = y if last == _NHWC else _tensor_like(file, y, after.shape)
    # The second version has 8 bits as well.
    made.append(operator(file, kind, 2, [x], out, options, blockSize=rate))
    if out != y:
        made.append(_transpose(file, out, y, np.argsort(last)))
    return made


def _transpose(file: File, x: int, y: int, axes: np.ndarray) -> Any:
    stored = add_constant(file.model, f"axes_of_{y}", axes.astype(np.int32))
    return operator(file, "TRANSPOSE", 1, [x, stored], y)


def _tensor_like(file: File, tensor: int, shape: Sequence[int]) -> int:
    made = copy.deepcopy(file.graph.tensors[tensor])
    made.name, made.shape, made.shapeSignature = f"{tensor}_laid", list(shape), None
    file.graph.tensors.append(made)
    return len(file.graph.tensors) - 1


def _moved(file: File, values: np.ndarray, chain: Sequence[Any]) -> np.ndarray:
    """What a chain makes of values."""
    for op in chain:
        if file.kind(op) == "TRANSPOSE":
            values = values.transpose(_stored(file.model, int(op.inputs[1])))
        values = values.reshape(file.shape(int(op.outputs[0])))
    return values


def _to_depth(x: np.ndarray, rate: int) -> np.ndarray | None:
    """What SPACE_TO_DEPTH makes of NHWC; None where sizes are not multiples of the rate."""
    n, h, w, c = x.shape
    if h % rate or w % rate:
        return None
    parts = x.reshape(n, h // rate, rate, w // rate, rate, c).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, h // rate, w // rate, -1)


def _order(x: np.ndarray | None, y: np.ndarray | None) -> np.ndarray | None:
    """The order of channels in which y is x; both NHWC, of different whole numbers."""
    if x is None or y is None or x.shape != y.shape:
        return None
    places = {value: place for place, value in enumerate(y[0, 0, 0].tolist())}
    order = np.array([places.get(value, -1) for value in x[0, 0, 0].tolist()])
    return order if (order >= 0).all() and np.array_equal(x, y[..., order]) else None


def _same(order: np.ndarray) -> bool:
    return np.array_equal(order, np.arange(len(order)))


def _reorder_before(file: File, tensor: int, order: np.ndarray) -> bool:
    """Make the channels of a computed tensor come in another order, if convolutions can."""
    changes: list[_Change] = []
    waiting = [tensor]
    while waiting:
        op = file.maker(waiting.pop())
        if file.kind(op) == "CONV_2D":
            x, weight = (file.shape(int(i)) for i in op.inputs[:2])
            if weight[3] != x[3]:  # in groups: an output may not read what another one does
                return False
            changes += [(op, k, 0) for k in range(1, len(op.inputs)) if op.inputs[k] >= 0]
        elif file.kind(op) in (*_ALONE, *_BESIDE):
            computed, constants = _read(file, op)
            changes += constants
            waiting += computed
        else:
            return False
    return _reordered(file, changes, order)


def _reorder_after(file: File, tensor: int, order: np.ndarray) -> bool:
    """Make whoever reads a computed tensor read its channels in another order."""
    changes: list[_Change] = []
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if tensor in map(int, file.graph.outputs):
            return False
        for op in file.readers[tensor]:
            computed, constants = _read(file, op)
            if file.kind(op) == "CONV_2D":
                changes.append((op, 1, 3))
            elif file.kind(op) in (*_ALONE, *_BESIDE) and len(computed) == 1:
                changes += constants
                waiting.append(int(op.outputs[0]))
            else:
                return False
    return _reordered(file, changes, order)


def _read(file: File, op: Any) -> tuple[list[int], list[_Change]]:
    """The computed inputs of an operator, and its constants that are not a single number."""
    computed = [int(i) for i in op.inputs if int(i) in file.computed]
    constants = [
        (op, k, len(file.shape(int(i))) - 1)
        for k, i in enumerate(op.inputs)
        if int(i) not in file.computed and np.prod(file.shape(int(i))) != 1
    ]
    return computed, constants


def _reordered(file: File, changes: Sequence[tuple[Any, int, int]], order: np.ndarray) -> bool:
    """Give operators copies of their constants, and of their scales, in another order."""
    values = [_stored(file.model, int(op.inputs[k])) for op, k, _ in changes]
    if any(
        value is None or value.shape[axis] != len(order)
        for value, (_, _, axis) in zip(values, changes, strict=True)
    ):
        return False
    for (op, k, axis), value in zip(changes, values, strict=True):
        assert value is not None
        tensor = int(op.inputs[k])
        op.inputs[k] = add_constant(file.model, f"{tensor}_by_phase", value.take(order, axis))
        old, new = file.graph.tensors[tensor], file.graph.tensors[op.inputs[k]]
        new.quantization = numbers = copy.deepcopy(old.quantization)
        if numbers is None or numbers.scale is None or numbers.quantizedDimension != axis:
            continue
        if len(numbers.scale) == len(order):
            numbers.scale = np.asarray(numbers.scale)[order].tolist()
            numbers.zeroPoint = np.asarray(numbers.zeroPoint)[order].tolist()
    return True


def _stored(model: Any, tensor: int) -> np.ndarray | None:
    """A constant of any kind that a layer may have; None for a tensor that is computed."""
    return constant(model, tensor, ("float32", "int8", "int32"))
