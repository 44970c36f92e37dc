"""ONNX operators that compute element by element, move, join, reduce; and the table of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leangan.errors import LeanganError
from leangan.sources import onnx_layers as layers
from leangan.sources.onnx_host import MOST, Host, Value, compute, sizes_of, whole
from leangan.sources.onnx_model import OnnxNode

Operator = Callable[..., Any]
"""operator(node, *values): a value, or a tuple of them; None for inputs that are left out."""

_FLOATS = (1, 10, 11, 16)  # float, float16, double, bfloat16: all float32 here
_BOOL = 9
_LAST = 2**31 - 1


def _pair(a: Value, b: Value) -> tuple[Any, Any]:
    """Fit for an arithmetic operator of PyTorch: single numbers stay numbers."""
    made = []
    for mine, other in ((a, b), (b, a)):
        if isinstance(mine, Host):
            alone = mine.values.size == 1 and mine.values.ndim <= _rank(other)
            made.append(mine.item() if alone and isinstance(other, Tensor) else mine.tensor())
        else:
            made.append(mine)
    return made[0], made[1]


def _rank(x: Value) -> int:
    return x.dim() if isinstance(x, Tensor) else x.values.ndim


def _binary(function: Callable[[Any, Any], Any]) -> Operator:
    def run(node: OnnxNode, *values: Value) -> Any:
        total: Value = values[0]
        for value in values[1:]:
            total = function(*_pair(total, value))
        return total

    return run


def _divide(a: Any, b: Any) -> Any:
    floating = any(
        x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float) for x in (a, b)
    )
    return a / b if floating else torch.div(a, b, rounding_mode="trunc")


def _extreme(largest: bool) -> Callable[[Any, Any], Any]:
    def run(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.maximum(a, b) if largest else torch.minimum(a, b)
        x, limit = (a, b) if isinstance(a, Tensor) else (b, a)
        return x.clamp(min=limit) if largest else x.clamp(max=limit)

    return run


def _power(a: Any, b: Any) -> Any:
    return a**b if isinstance(a, Tensor) or isinstance(b, Tensor) else float(a) ** float(b)


def _mean(node: OnnxNode, *values: Value) -> Any:
    return _binary(lambda a, b: a + b)(node, *values) / len(values)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: function(_tensor(x))


def _tensor(x: Value) -> Tensor:
    return x.tensor() if isinstance(x, Host) else x


def _clip(node: OnnxNode, x: Value, low: Value | None = None, high: Value | None = None) -> Tensor:
    ends: list[Any] = []
    for end, name in ((low, "min"), (high, "max")):
        number = end.item() if isinstance(end, Host) else end
        ends.append(node.get(name, None) if number is None else number)
    # Float's own largest number is how old files say that there is no limit.
    ends = [None if isinstance(e, float) and abs(e) > 3e38 else e for e in ends]
    tensor = _tensor(x)
    return tensor if ends == [None, None] else torch.clamp(tensor, *ends)


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def run(node: OnnxNode, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, node.get("axis", -1))
        axis = node.get("axis", 1) % x.dim()
        if axis == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(axis), -1).reshape(x.shape)

    return run


def _gelu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(node: OnnxNode, x: Value, axes: Host | None = None) -> Any:
        given = axes.list() if axes is not None else node.get("axes", [])
        if not given and node.get("noop_with_empty_axes", 0):
            return x
        keep = bool(node.get("keepdims", 1))
        if isinstance(x, Host) and node.kind == "ReduceProd" and x.values.ndim == 1:
            product = math.prod(x.list())
            return Host(_objects([product]) if keep else _objects(product), x.floating)
        tensor = _tensor(x)
        where = [int(a) % tensor.dim() for a in given] or list(range(tensor.dim()))
        return function(tensor, where, keep)

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _objects(values: Any) -> Any:
    several = isinstance(values, list)
    made = np.empty((len(values),) if several else (), object)
    for i, value in enumerate(values) if several else [((), values)]:
        made[i] = value
    return made


def _cast(node: OnnxNode, x: Value) -> Value:
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
    return _objects(values).reshape(x.values.shape)


def _shape(node: OnnxNode, x: Value) -> Host:
    sizes = sizes_of(x) if isinstance(x, Tensor) else Host.of(list(x.values.shape))
    return Host(sizes.values[node.get("start", 0) : node.get("end", None)])


def _size(node: OnnxNode, x: Value) -> Host:
    return Host(_objects(math.prod(_shape(node, x).list())))


def _reshape(node: OnnxNode, x: Value, shape: Host) -> Value:
    sizes = shape.list()
    if isinstance(x, Host):
        return Host(x.values.reshape([int(s) for s in sizes]), x.floating)
    zeros = bool(node.get("allowzero", 0))
    sizes = [x.shape[i] if _is(s, 0) and not zeros else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and size == number


def _flatten(node: OnnxNode, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(node: OnnxNode, x: Value) -> Value:
    perm = node.get("perm", list(range(_rank(x)))[::-1])
    if isinstance(x, Host):
        return Host(x.values.transpose(perm), x.floating)
    return x.permute(perm)


def _axes(node: OnnxNode, axes: Host | None) -> list[int] | None:
    found = axes.list() if axes is not None else node.get("axes", None)
    return None if found is None else [int(a) for a in found]


def _squeeze(node: OnnxNode, x: Value, axes: Host | None = None) -> Value:
    where = _axes(node, axes)
    if isinstance(x, Host):
        shape = x.values.squeeze(tuple(where) if where else None)
        return Host(shape, x.floating)
    where = [i for i, s in enumerate(x.shape) if _is(s, 1)] if where is None else where
    return x.squeeze(where)


def _unsqueeze(node: OnnxNode, x: Value, axes: Host | None = None) -> Value:
    where = _axes(node, axes) or []
    rank = _rank(x) + len(where)
    for axis in sorted(a % rank for a in where):
        if isinstance(x, Host):
            x = Host(x.values[(slice(None),) * axis + (None,)], x.floating)
        else:
            x = x.unsqueeze(axis)
    return x


def _expand(node: OnnxNode, x: Value, shape: Host) -> Tensor:
    tensor, wanted = _tensor(x), shape.list()
    while tensor.dim() < len(wanted):
        tensor = tensor.unsqueeze(0)
    wanted = [1] * (tensor.dim() - len(wanted)) + wanted
    return tensor.expand([s if _is(w, 1) else w for s, w in zip(tensor.shape, wanted, strict=True)])


def _concat(node: OnnxNode, *values: Value) -> Value:
    if all(isinstance(v, Host) for v in values):
        arrays = [v.values for v in values if isinstance(v, Host)]
        floating = any(isinstance(v, Host) and v.floating for v in values)
        joined = np.concatenate(arrays, node.attributes["axis"])
        return Host(joined, floating)
    return torch.cat([_tensor(v) for v in values], node.attributes["axis"])


def _split(node: OnnxNode, x: Value, sizes: Host | None = None) -> tuple[Any, ...]:
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


def _slice(
    node: OnnxNode,
    x: Value,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Value:
    first = starts.list() if starts is not None else node.attributes["starts"]
    last = ends.list() if ends is not None else node.attributes["ends"]
    where = axes.list() if axes is not None else node.get("axes", range(len(first)))
    step = steps.list() if steps is not None else [1] * len(first)
    index: list[Any] = [slice(None)] * _rank(x)
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


def _gather(node: OnnxNode, x: Value, indices: Value) -> Value:
    axis = node.get("axis", 0)
    if isinstance(x, Host):
        if not isinstance(indices, Host):
            return _gather(node, x.tensor(), indices)
        picked = np.take(x.values, _whole_array(indices), axis)
        return Host(picked if isinstance(picked, np.ndarray) else _objects(picked), x.floating)
    if isinstance(indices, Host):
        if indices.values.ndim == 0:
            return x.select(axis, indices.item())
        length = x.shape[axis]
        numbers = [i + length if isinstance(i, int) and i < 0 else i for i in indices.list()]
        flat, shape = Host(_objects(numbers)).tensor(), indices.values.shape
    else:
        flat, shape = indices.reshape(-1).to(torch.int64), tuple(indices.shape)
    axis %= x.dim()
    picked = x.index_select(axis, flat)
    if len(shape) == 1:
        return picked
    return picked.reshape([*x.shape[:axis], *shape, *x.shape[axis + 1 :]])


def _whole_array(x: Host) -> Any:
    return np.array([int(v) for v in x.list()], dtype=np.int64).reshape(x.values.shape)


def _constant_of_shape(node: OnnxNode, shape: Host) -> Value:
    value = node.get("value", None)
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    sizes = shape.list()
    known = all(isinstance(s, int) for s in sizes)
    if known and not isinstance(fill, float) and len(sizes) <= 1 and math.prod(sizes) <= MOST:
        return Host(_objects([fill] * math.prod(sizes))) if sizes else Host(_objects(fill))
    return torch.full(sizes, fill)


def _range(node: OnnxNode, start: Value, limit: Value, delta: Value) -> Value:
    ends: list[Any] = [v.item() for v in (start, limit, delta)]
    floating = any(isinstance(v, Host) and v.floating for v in (start, limit, delta))
    if all(isinstance(e, int) for e in ends) and 0 < (ends[1] - ends[0]) / ends[2] <= MOST:
        return Host(_objects(list(range(*ends))))
    return torch.arange(*ends, dtype=torch.float32 if floating else torch.int64)


def _where(node: OnnxNode, condition: Value, a: Value, b: Value) -> Tensor:
    if isinstance(condition, Host) and condition.values.size == 1 and _rank(condition) == 0:
        return _tensor(a) if condition.item() else _tensor(b)
    x, y = _tensor(a), _tensor(b)
    return torch.where(_tensor(condition), x, y)


def _tile(node: OnnxNode, x: Value, repeats: Host) -> Tensor:
    return _tensor(x).repeat(repeats.list())


def _matmul(node: OnnxNode, a: Value, b: Value) -> Tensor:
    x, y = _tensor(a), _tensor(b)
    return x @ y


def _einsum(node: OnnxNode, *values: Value) -> Tensor:
    return torch.einsum(node.attributes["equation"], *(_tensor(v) for v in values))


def _cumsum(node: OnnxNode, x: Tensor, axis: Host) -> Tensor:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise LeanganError("it sums backwards or without the element itself, which is not read")
    return x.cumsum(int(axis.item()))


def _arg(function: Callable[..., Tensor]) -> Operator:
    def run(node: OnnxNode, x: Tensor) -> Tensor:
        return function(x, node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))

    return run


def _hard_sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    return (x * node.get("alpha", 0.2) + node.get("beta", 0.5)).clamp(0.0, 1.0)


def _lp_norm(node: OnnxNode, x: Tensor) -> Tensor:
    return x / x.norm(node.get("p", 2), node.get("axis", -1), True)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "Sum": lambda a, b: a + b,
    "Max": _extreme(True),
    "Min": _extreme(False),
    "Mod": lambda a, b: torch.remainder(a, b),
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
}
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keep).sqrt(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
}

OPERATORS: dict[str, Operator] = {
    **{kind: _binary(function) for kind, function in _ARITHMETIC.items()},
    **{kind: _unary(function) for kind, function in _PLAIN.items()},
    **{kind: _reduce(function) for kind, function in _REDUCTIONS.items()},
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": layers.pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": _cast,
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "CumSum": _cumsum,
    "DepthToSpace": layers.depth_to_space,
    "DequantizeLinear": layers.dequantize_linear,
    "Dropout": lambda node, x, *_: x,
    "Einsum": _einsum,
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_pool,
    "GlobalMaxPool": layers.global_pool,
    "GridSample": layers.grid_sample,
    "GroupNormalization": layers.group_norm,
    "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "MaxPool": layers.pool,
    "Mean": _mean,
    "PRelu": layers.prelu,
    "Pad": layers.pad,
    "QuantizeLinear": layers.quantize_linear,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": layers.resize,
    "Selu": lambda node, x: F.selu(x),
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax(F.softmax),
    "SpaceToDepth": layers.space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": layers.resize,
    "Where": _where,
}


def run(node: OnnxNode, values: list[Value | None]) -> Any:
    """Compute one operator, on known numbers where all of its inputs are.

    Raises:
        LeanganError: with the operator's kind and name.
    """
    try:
        if values and all(isinstance(v, Host) for v in values):
            known = compute(node.kind, [v for v in values if isinstance(v, Host)])
            if known is not None:
                return known
        return OPERATORS[node.kind](node, *values)
    except Exception as error:  # whatever the operator's arguments make PyTorch say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, KeyError):
            reason = f"its attribute or mode {reason} is missing or not read"
        raise LeanganError(f"Operator {node.title}: {reason}.") from error
