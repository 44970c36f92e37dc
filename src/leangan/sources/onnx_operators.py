"""ONNX operators that compute element by element and reduce; and the table of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leangan.errors import LeanganError
from leangan.sources import onnx_layers as layers
from leangan.sources import onnx_shapes as shapes
from leangan.sources.onnx_host import Host, Value, compute, objects, rank_of, tensor_of
from leangan.sources.onnx_model import OnnxNode

Operator = Callable[..., Any]
"""operator(node, *values): a value, or a tuple of them; None for inputs that are left out."""


def _pair(a: Value, b: Value) -> tuple[Any, Any]:
    """Fit for an arithmetic operator of PyTorch: single numbers stay numbers."""
    made = []
    for mine, other in ((a, b), (b, a)):
        if isinstance(mine, Host):
            alone = mine.values.size == 1 and mine.values.ndim <= rank_of(other)
            made.append(mine.item() if alone and isinstance(other, Tensor) else mine.tensor())
        else:
            made.append(mine)
    return made[0], made[1]


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
    return lambda node, x: function(tensor_of(x))


def _clip(node: OnnxNode, x: Value, low: Value | None = None, high: Value | None = None) -> Tensor:
    ends: list[Any] = []
    for end, name in ((low, "min"), (high, "max")):
        number = end.item() if isinstance(end, Host) else end
        ends.append(node.get(name, None) if number is None else number)
    # Float's own largest number is how old files say that there is no limit.
    ends = [None if isinstance(e, float) and abs(e) > 3e38 else e for e in ends]
    tensor = tensor_of(x)
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
            return Host(objects([product]) if keep else objects(product), x.floating)
        tensor = tensor_of(x)
        where = [int(a) % tensor.dim() for a in given] or list(range(tensor.dim()))
        return function(tensor, where, keep)

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _matmul(node: OnnxNode, a: Value, b: Value) -> Tensor:
    x, y = tensor_of(a), tensor_of(b)
    return x @ y


def _einsum(node: OnnxNode, *values: Value) -> Tensor:
    return torch.einsum(node.attributes["equation"], *(tensor_of(v) for v in values))


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
    "Cast": shapes.cast,
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "CumSum": _cumsum,
    "DepthToSpace": layers.depth_to_space,
    "DequantizeLinear": layers.dequantize_linear,
    "Dropout": lambda node, x, *_: x,
    "Einsum": _einsum,
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
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
    "Range": shapes.range_,
    "Reshape": shapes.reshape,
    "Resize": layers.resize,
    "Selu": lambda node, x: F.selu(x),
    "Shape": shapes.shape,
    "Size": shapes.size,
    "Slice": shapes.slice_,
    "Softmax": _softmax(F.softmax),
    "SpaceToDepth": layers.space_to_depth,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": layers.resize,
    "Where": shapes.where,
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
