"""How far a generator looks: the halo that tiles of an image or a sound need.

An interval of wanted output positions is followed backwards through the graph, operator by
operator, until it has become an interval of input positions (Araujo, Norris, Sim: Computing
Receptive Fields of Convolutional Neural Networks, Distill 2019).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch.fx import Node

from leangan.generator import Generator
from leangan.graph.recognise import BY_PHASE, put_shuffles

Interval = tuple[int, int]
"""First and last wanted position along one axis; borders are not looked at."""
Step = Callable[[Node, Interval, int], Interval | None]
"""From the wanted output positions to the wanted positions of the first argument; the axis is
counted from the end (-1 is the last). None when the operator looks everywhere."""

_MOST_PHASES = 4096
_POINTWISE_NAMES = frozenset(
    ["alias", "clone", "contiguous", "detach", "dropout", "prelu", "_to_copy"]
)
_POINTWISE_NAMESPACES = ("quantized_decomposed", "torchao")


def receptive_field(generator: Generator) -> int | None:
    """How many input pixels or samples to each side of its own place an output depends on.

    A stack of n plain 3x3 convolutions gives n. A tile with a halo of that many input pixels on
    each side, its output cropped, is what the whole picture would have given there.

    Returns:
        The larger of both directions, over all spatial axes; None when the output depends on
        the whole input (InstanceNorm, global pooling, attention), or an operator's reach is not
        known, so that tiling would not be safe.
    """
    program = generator.program
    graph = copy.deepcopy(program.graph)
    put_shuffles(graph, BY_PHASE)  # each value's place in the picture is all that counts here
    nodes = list(graph.nodes)
    names = {str(name) for name in program.graph_signature.user_inputs}
    # A copy may name its nodes otherwise; their order is the same.
    known, copied = (g.find_nodes(op="placeholder") for g in (program.graph, graph))
    inputs = [c for n, c in zip(known, copied, strict=True) if n.name in names]
    furthest = 0
    for axis in range(-1, -1 - max(_spatial_axes(generator)), -1):
        reach = _reach(nodes, inputs, axis)
        if reach is None:
            return None
        furthest = max(furthest, reach)
    return furthest


def _spatial_axes(generator: Generator) -> list[int]:
    return [max(0, len(port.layout) - 2) for port in generator.signature.inputs]


def _reach(nodes: list[Node], inputs: list[Node], axis: int) -> int | None:
    """The halo along one axis: the worst over all positions that the output's period has."""
    depends = _dependent(nodes, inputs)
    period = math.prod(_upscale(n, axis) for n in nodes if n.op == "call_function")
    if period > _MOST_PHASES:
        return None
    first, after = (
        _wanted(nodes, depends, inputs, 0, axis),
        _wanted(nodes, depends, inputs, period, axis),
    )
    if first is None or after is None:
        return None
    furthest = 0
    for name in first:
        slope = Fraction(after[name][0] - first[name][0], period)
        for position in range(period):
            wanted = _wanted(nodes, depends, inputs, position, axis)
            assert wanted is not None  # what an operator does does not depend on the position
            low, high = wanted[name]
            own = (math.floor(slope * position), math.ceil(slope * (position + 1)) - 1)
            furthest = max(furthest, own[0] - low, high - own[1])
    return furthest


def _wanted(
    nodes: list[Node], depends: set[Node], inputs: list[Node], position: int, axis: int
) -> dict[str, Interval] | None:
    """Per input the positions that the output at `position` depends on."""
    wanted: dict[Node, Interval] = {}

    def want(node: Any, interval: Interval) -> None:
        if isinstance(node, Node):
            low, high = wanted.get(node, interval)
            wanted[node] = (min(low, interval[0]), max(high, interval[1]))

    for node in reversed(nodes):
        if node.op == "output":
            for result in node.all_input_nodes:
                want(result, (position, position))
        elif node.op == "call_function" and node in wanted and node in depends:
            arguments = [n for n in node.all_input_nodes if n in depends]
            if all(_is_number(n) for n in arguments):
                return None  # a tensor made of sizes
            step = _step(node)
            interval = step(node, wanted[node], axis) if step is not None else None
            if interval is None:
                return None
            for argument in arguments:
                want(argument, interval)
    return {n.name: wanted[n] for n in inputs if n in wanted}


def _dependent(nodes: list[Node], inputs: list[Node]) -> set[Node]:
    """The nodes that depend on an input: weights and what is computed of them do not."""
    found = set(inputs)
    for node in nodes:
        if node.op == "call_function" and found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _is_number(node: Node) -> bool:
    return not isinstance(node.meta.get("val"), torch.Tensor | tuple | list)


def _step(node: Node) -> Step | None:
    """The rule of an operator; None when there is none."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return _same if getattr(target, "__name__", "") == "getitem" else None
    name = target._schema.name.split("::")[-1]
    if name in _RULES:
        return _RULES[name]
    pointwise = torch.Tag.pointwise in target.tags or name in _POINTWISE_NAMES
    return _same if pointwise or target.namespace in _POINTWISE_NAMESPACES else None


def _same(node: Node, wanted: Interval, axis: int) -> Interval:
    return wanted


def _argument(node: Node, name: str, default: Any = None) -> Any:
    """An argument of an operator by the name in its schema."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for i, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            if i < len(node.args):
                return node.args[i]
            standard = argument.default_value if argument.has_default_value() else default
            return node.kwargs.get(name, standard)
    return default


def _along(values: Any, axis: int, default: int) -> int:
    """The entry of a per-axis list (stride, padding) for `axis`; one entry stands for all."""
    if isinstance(values, int):
        return values
    if not values:
        return default
    return int(values[axis] if len(values) >= -axis else values[0])


def _convolution(node: Node, wanted: Interval, axis: int) -> Interval | None:
    kernel = _kernel(node, axis)
    if kernel is None:
        return None
    stride = _along(_argument(node, "stride"), axis, 1)
    reach = _along(_argument(node, "dilation"), axis, 1) * (kernel - 1)
    padding = _argument(node, "padding")
    if isinstance(padding, str):
        padding = reach // 2 if padding == "same" else 0
    padding = _along(padding, axis, 0)
    low, high = wanted
    if _is_transposed(node):
        # Output i reads the inputs j with i = j * stride - padding + tap.
        return -(-(low + padding - reach) // stride), (high + padding) // stride
    return low * stride - padding, high * stride - padding + reach


def _is_transposed(node: Node) -> bool:
    return _rule_name(node).startswith("conv_transpose") or bool(_argument(node, "transposed"))


def _kernel(node: Node, axis: int) -> int | None:
    weight = node.args[1]
    value = weight.meta.get("val") if isinstance(weight, Node) else None
    if value is None or value.dim() < 2 - axis:
        return None
    return int(value.shape[axis])


def _pool(node: Node, wanted: Interval, axis: int) -> Interval:
    kernel = _along(_argument(node, "kernel_size"), axis, 1)
    stride = _along(_argument(node, "stride"), axis, kernel)
    padding = _along(_argument(node, "padding", 0), axis, 0)
    reach = _along(_argument(node, "dilation", 1), axis, 1) * (kernel - 1)
    return wanted[0] * stride - padding, wanted[1] * stride - padding + reach


def _pad(node: Node, wanted: Interval, axis: int) -> Interval | None:
    pads = _argument(node, "pad") or _argument(node, "padding")
    if _argument(node, "mode") == "circular" or not all(isinstance(p, int) for p in pads):
        return None
    place = 2 * (-axis - 1)  # the last axis comes first, two numbers an axis
    before = pads[place] if len(pads) > place else 0
    # A reflected or repeated position lies no further from the border than the padded one.
    return wanted[0] - before, wanted[1] - before


def _rule_name(node: Node) -> str:
    assert isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema.name.split("::")[-1]


def _shuffle(node: Node, wanted: Interval, axis: int) -> Interval:
    factor = int(_argument(node, "upscale_factor"))
    return wanted[0] // factor, wanted[1] // factor


def _unshuffle(node: Node, wanted: Interval, axis: int) -> Interval:
    factor = int(_argument(node, "downscale_factor"))
    return wanted[0] * factor, wanted[1] * factor + factor - 1


def _resize(node: Node, wanted: Interval, axis: int) -> Interval | None:
    scale = _scale(node, axis)
    if scale is None or _argument(node, "align_corners"):
        return None
    name = _rule_name(node)
    if "nearest" in name:
        return math.floor(wanted[0] / scale), math.floor(wanted[1] / scale)
    more = 1 if "cubic" in name else 0
    half = Fraction(1, 2)
    low, high = ((position + half) / scale - half for position in wanted)
    return math.floor(low) - more, math.floor(high) + 1 + more


def _scale(node: Node, axis: int) -> Fraction | None:
    scales = _argument(node, "scale_factors") or _argument(node, "scales")
    if scales:
        return Fraction(scales[axis]).limit_denominator(64)
    single = {-1: "scales_w", -2: "scales_h"}[axis] if axis >= -2 else ""
    value = _argument(node, single) if single else None
    return Fraction(value).limit_denominator(64) if isinstance(value, float) else None


def _cat(node: Node, wanted: Interval, axis: int) -> Interval | None:
    return wanted if _other_axis(node, _argument(node, "dim", 0), axis) else None


def _slice(node: Node, wanted: Interval, axis: int) -> Interval | None:
    if _other_axis(node, _argument(node, "dim", 0), axis):
        return wanted
    start, step = _argument(node, "start") or 0, _argument(node, "step") or 1
    if not isinstance(start, int) or not isinstance(step, int) or start < 0:
        return None
    return wanted[0] * step + start, wanted[1] * step + start


def _other_axis(node: Node, dim: Any, axis: int) -> bool:
    """Whether an operator that works along `dim` leaves `axis` alone."""
    value = node.meta.get("val")
    if not isinstance(dim, int) or not isinstance(value, torch.Tensor):
        return False
    return (dim if dim < 0 else dim - value.dim()) != axis


def _flip(node: Node, wanted: Interval, axis: int) -> Interval | None:
    return wanted if all(_other_axis(node, d, axis) for d in _argument(node, "dims")) else None


def _split(node: Node, wanted: Interval, axis: int) -> Interval | None:
    """Split and chunk: their value is a list, all of one rank."""
    value, dim = node.meta.get("val"), _argument(node, "dim", 0)
    if not isinstance(value, tuple | list) or not isinstance(dim, int):
        return None
    return wanted if (dim if dim < 0 else dim - value[0].dim()) != axis else None


def _upscale(node: Node, axis: int) -> int:
    """By how much an operator multiplies the number of positions, for the output's period."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return 1
    name = _rule_name(node)
    if _is_transposed(node):
        return _along(_argument(node, "stride"), axis, 1)
    if name == "pixel_shuffle":
        return int(_argument(node, "upscale_factor"))
    if name.startswith("upsample"):
        scale = _scale(node, axis)
        return scale.numerator if scale is not None else 1
    return 1


_RULES: dict[str, Step] = {
    "_native_batch_norm_legit_no_training": _same,
    "avg_pool1d": _pool,
    "avg_pool2d": _pool,
    "cat": _cat,
    "chunk": _split,
    "constant_pad_nd": _pad,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "convolution": _convolution,
    "flip": _flip,
    "max_pool1d": _pool,
    "max_pool2d": _pool,
    "max_pool2d_with_indices": _pool,
    "pad": _pad,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
    "reflection_pad1d": _pad,
    "reflection_pad2d": _pad,
    "replication_pad1d": _pad,
    "replication_pad2d": _pad,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "upsample_bicubic2d": _resize,
    "upsample_bilinear2d": _resize,
    "upsample_linear1d": _resize,
    "upsample_nearest1d": _resize,
    "upsample_nearest2d": _resize,
}
