"""Quantized generators in the form that XNNPACK runs in 8 bits, and what of them it does.

XNNPACK's integer layers put out either integers or, where the range of the input is measured while
it runs, floats. A generator's residual streams are float (techniques/quantize_linear.py), so only
the second form fits: the 8-bit weights and the ends of the calibrated range are the generator's
own, and within those each image is rounded over the range that it fills.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator, Step
from leangan.graph.operators import aten, is_call, read_convolution
from leangan.graph.rewrite import new_tensor_node, recapture, tensor_of, tidy
from leangan.runtimes.base import counted

if TYPE_CHECKING:
    from leangan.graph.operators import Convolution

_q = torch.ops.quantized_decomposed
_LEAST_STEP = 1e-9
"""Of a range that is measured: an image of zeros must not be divided by zero."""


def measured_ranges(generator: Generator) -> Generator:
    """The generator with the ranges of 8-bit activations measured while it runs.

    x -> quantize -> dequantize -> layer(dequantize(weight))
    becomes
    x -> clamp -> prelu of slope 1 -> range -> quantize -> dequantize -> layer(dequantize(weight))

    1-D convolutions become 2-D ones of height 1. Layers that XNNPACK has no such form of
    (depthwise, transposed with groups, weights alone in 8 bits, groups within a channel) get their
    weights as floats and their input clamped, not rounded.

    Args:
        generator: quantized, without free sizes.

    Returns:
        Another generator, close to it but not equal.
    """
    module = generator.module()
    layers = [n for n in module.graph.nodes if read_convolution(n) or is_call(n, aten.linear)]
    rounded = [_reads_eight_bits(node) for node in layers]
    for node in list(module.graph.nodes):
        code: Any = node.args[0] if is_call(node, _q.dequantize_per_tensor) else None
        if is_call(code, _q.quantize_per_tensor):
            x, step, zero, low, high = code.args[:5]
            ends = ((low - zero) * step, (high - zero) * step)
            with module.graph.inserting_before(node):
                clamped = module.graph.call_function(aten.clamp.default, (x, *ends))
            node.replace_all_uses_with(clamped)
    for node, eight in zip(layers, rounded, strict=True):
        weight = _Weight.read(module, node)
        if weight is None:
            continue
        conv = read_convolution(node)
        if eight and weight.plain and (conv is None or _has_form(conv)):
            _measure(module, node, conv, weight)
        else:
            kernel = new_tensor_node(module, node, f"{node.name}_float", weight.values)
            node.update_arg(1, kernel)
    tidy(module)
    return recapture(generator, module, Step("measured_ranges"))


@dataclass(frozen=True)
class _Weight:
    """A weight that is dequantized."""

    codes: Tensor
    scales: Tensor
    """One for each output channel, where it is plain."""
    values: Tensor
    axis: int
    """Of the output channels."""
    plain: bool
    """Whether the codes are in 8 bits around zero with one scale for each output channel."""

    @classmethod
    def read(cls, module: GraphModule, node: Node) -> _Weight | None:
        """None when the layer's weight is no constant that is dequantized."""
        views: list[Node] = []
        back: Any = node.args[1]
        while isinstance(back, Node) and is_call(back, aten.view, aten.reshape, aten.transpose):
            views.append(back)
            back = back.args[0]
        if not is_call(back, _q.dequantize_per_channel, _q.dequantize_per_tensor):
            return None
        args = [a if (t := tensor_of(module, a)) is None else t.detach() for a in back.args]
        values = back.target(*args)
        for view in reversed(views):
            target: Any = view.target
            values = target(values, *view.args[1:])
        conv = read_convolution(node)
        axis = 1 if conv is not None and conv.transposed else 0
        codes, scales, zeros = args[:3]
        if is_call(back, _q.dequantize_per_tensor):
            scales = torch.full((codes.shape[axis],), float(scales))
            plain = zeros == 0
        else:
            plain = args[3] == axis and len(scales) == codes.shape[axis] and not zeros.any()
        return cls(codes, scales, values, axis, bool(plain) and not views)


def _reads_eight_bits(node: Node) -> bool:
    """Whether the values that enter a layer were rounded to 8 bits, before or after a padding."""
    source: Any = node.args[0]
    while isinstance(source, Node) and source.op == "call_function":
        if is_call(source, _q.dequantize_per_tensor):
            return source.args[5] in (torch.uint8, torch.int8)
        source = source.args[0]
    return False


def _has_form(conv: Convolution) -> bool:
    weight = conv.weight.meta["val"].shape
    depthwise = not conv.transposed and conv.groups > 1 and weight[1] == 1
    grouped = conv.transposed and conv.groups > 1
    return conv.axes <= 2 and conv.padding is not None and not depthwise and not grouped


def _measure(module: GraphModule, node: Node, conv: Convolution | None, weight: _Weight) -> None:
    graph, codes = module.graph, weight.codes
    flat = conv is not None and conv.axes == 1
    if flat:
        codes = codes.unsqueeze(2)
    parts = {"int8": codes, "scale": weight.scales, "zero": torch.zeros_like(weight.scales).long()}
    code, scale, zero = (
        new_tensor_node(module, node, f"{node.name}_{name}", part, learned=False)
        for name, part in parts.items()
    )
    one = None
    if conv is not None:
        # XNNPACK 1.5.1 lays out the channels last where the delegate begins, not where a layer
        # reads them, and forgets who read them before. A slope of one changes no value, but is
        # laid out so by itself.
        one = new_tensor_node(module, node, f"{node.name}_one", torch.ones(1), learned=False)
    limits = (-128, 127)
    with graph.inserting_before(node):
        x: Any = node.args[0]
        if flat:
            x = graph.call_function(aten.unsqueeze.default, (x, 2))
        if one is not None:
            x = graph.call_function(aten.prelu.default, (x, one))
        found = graph.call_function(_q.choose_qparams.tensor, (x, *limits, _LEAST_STEP, torch.int8))
        numbers = tuple(graph.call_function(operator.getitem, (found, i)) for i in (0, 1))
        for step in (_q.quantize_per_tensor.tensor, _q.dequantize_per_tensor.tensor):
            x = graph.call_function(step, (x, *numbers, *limits, torch.int8))
        kernel = graph.call_function(
            _q.dequantize_per_channel.default,
            (code, scale, zero, weight.axis, -127, 127, torch.int8),
        )
        if conv is None or not flat:
            node.update_arg(0, x)
            node.update_arg(1, kernel)
            return
        assert conv.padding is not None
        args = (x, kernel, conv.bias, [1, *conv.stride], [0, *conv.padding])
        dilation = [1, *conv.dilation]
        if conv.transposed:
            more = ([0, *conv.output_padding], conv.groups, dilation)
            y = graph.call_function(aten.conv_transpose2d.input, (*args, *more))
        else:
            y = graph.call_function(aten.conv2d.default, (*args, dilation, conv.groups))
        node.replace_all_uses_with(graph.call_function(aten.squeeze.dim, (y, 2)))
    graph.erase_node(node)


def share_of_delegates(edge: Any) -> float | None:
    """Share of the multiply-accumulates that XNNPACK was handed in 8 bits.

    Args:
        edge: ExecuTorch's program after partitioning.

    Returns:
        0 to 1; None where nothing is multiplied.
    """
    program = edge.exported_program()
    inside = [
        module.original_module.graph
        for _, module in program.graph_module.named_children()
        if hasattr(module, "original_module")
    ]
    whole = eight = 0
    for graph in (program.graph, *inside):
        for node in graph.nodes:
            macs = _macs(node)
            whole += macs
            if macs and graph is not program.graph and all(map(_dequantized, node.args[:2])):
                eight += macs
    return eight / whole if whole else None


def outside_delegates(edge: Any) -> str:
    """Operators that are left to ExecuTorch's portable kernels, in words for people."""
    return counted(
        node.target.__name__.rsplit(".", 1)[0]
        for node in edge.exported_program().graph.nodes
        if node.op == "call_function" and "." in node.target.__name__  # the others are its own
    )


def _macs(node: Node) -> int:
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or name not in (
        "aten.convolution.default",
        "aten.linear.default",
    ):
        return 0
    data, weight = (node.args[i].meta["val"].shape for i in (0, 1))  # type: ignore[union-attr]
    if name == "aten.linear.default":
        return math.prod(data) * int(weight[0])
    laid = data if node.args[6] else node.meta["val"].shape
    return int(laid[0]) * math.prod(laid[2:]) * math.prod(weight)


def _dequantized(value: Any) -> bool:
    return isinstance(value, Node) and "dequantize" in getattr(value.target, "__name__", "")
