"""Reading ATen operators of a graph: their arguments by name, and convolutions in one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

POINTWISE = frozenset(
    {
        aten.abs,
        aten.add,
        aten.celu,
        aten.clamp,
        aten.clamp_max,
        aten.clamp_min,
        aten.clone,
        aten.cos,
        aten.div,
        aten.elu,
        aten.exp,
        aten.gelu,
        aten.hardsigmoid,
        aten.hardswish,
        aten.hardtanh,
        aten.leaky_relu,
        aten.log,
        aten.maximum,
        aten.minimum,
        aten.mish,
        aten.mul,
        aten.neg,
        aten.pow,
        aten.reciprocal,
        aten.relu,
        aten.relu6,
        aten.rsqrt,
        aten.rsub,
        aten.selu,
        aten.sigmoid,
        aten.silu,
        aten.sin,
        aten.softplus,
        aten.sqrt,
        aten.sub,
        aten.tanh,
    }
)
"""Operators that treat every element alike, whatever its place."""

_PLAIN: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.conv3d.padding: 3,
}
_TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}


@dataclass(frozen=True)
class Convolution:
    """A convolution node, transposed or not, its arguments completed to one entry per axis."""

    node: Node
    x: Node
    weight: Node
    """(out, in / groups, *kernel), or (in, out / groups, *kernel) when transposed."""
    bias: Node | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | None
    """Zeros on both sides of each axis; None where they are uneven or follow from the size."""
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)


def read_convolution(node: Any) -> Convolution | None:
    """`node` as a Convolution, None when it is anything else."""
    if not isinstance(node, Node):
        return None
    axes = _PLAIN.get(node.target) or _TRANSPOSED.get(node.target)
    if axes is None:
        return None
    named = arguments(node)
    dilation = _per_axis(named["dilation"], axes)
    padding: tuple[int, ...] | None
    if named["padding"] == "valid":
        padding = (0,) * axes
    elif named["padding"] == "same":
        kernel = named["weight"].meta["val"].shape[2:]
        total = [d * (int(k) - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = None if any(t % 2 for t in total) else tuple(t // 2 for t in total)
    elif any(isinstance(p, Node) for p in named["padding"]):
        padding = None
    else:
        padding = _per_axis(named["padding"], axes)
    return Convolution(
        node,
        named["input"],
        named["weight"],
        named["bias"],
        _per_axis(named["stride"], axes),
        padding,
        dilation,
        _per_axis(named.get("output_padding", 0), axes),
        named["groups"],
        node.target in _TRANSPOSED,
    )


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an ATen call by their names in its schema, defaults filled in."""
    target: Any = node.target
    named = {}
    for place, argument in enumerate(target._schema.arguments):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        else:
            named[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return named


def is_call(node: Any, *targets: Any) -> bool:
    """Whether `node` calls one of these operators, in any of their overloads."""
    if not isinstance(node, Node) or node.op != "call_function":
        return False
    return getattr(node.target, "overloadpacket", None) in targets


def only_user(node: Node) -> Node | None:
    """The one node that reads `node`; None when there are more, or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))
