"""Transposed convolutions in the forms that plain converters know."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import codes_behind, replace_tensor, rewrite, tensor_of

_q = torch.ops.quantized_decomposed


def plain_transposed(generator: Generator) -> Generator:
    """No output_padding, and no stride of 1: float or quantized, the same numbers.

    conv_transpose(k, output_padding p)  becomes  conv_transpose(k + p), zeros at the kernel's end
    conv_transpose(k, stride 1)          becomes  conv(k), the kernel turned round
    conv_transpose(k, padding p)         becomes  conv_transpose(k), then p cut off each side,
                                                  unless its output is stride times its input
    """
    return rewrite(
        generator,
        "plain-transposed",
        {
            "output paddings": replace_output_padding,
            "strides of 1": replace_unstrided,
            "uneven paddings": replace_padding,
        },
    )


def replace_output_padding(module: GraphModule) -> int:
    """Replace them in place; returns how many.

    Each further row or column of a kernel adds one to the output, and its zeros add nothing. A
    kernel whose code 0 is not the number 0 stays as it is, and so does a dilated one.
    """
    count = 0
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        if conv is None or not conv.transposed or not any(conv.output_padding):
            continue
        stored = codes_behind(conv.weight)
        kernel = tensor_of(module, stored)
        if kernel is None or not _zero_is_zero(module, conv.weight) or set(conv.dilation) != {1}:
            continue
        sides = [side for more in reversed(conv.output_padding) for side in (0, more)]
        reader = next(iter(stored.users))
        padded = replace_tensor(module, reader, stored, F.pad(kernel.detach(), sides))
        reader.replace_input_with(stored, padded)
        place = [a.name for a in node.target._schema.arguments].index("output_padding")
        node.update_arg(place, [0] * conv.axes)
        count += 1
    return count


def replace_unstrided(module: GraphModule) -> int:
    """Replace those of one group in place; returns how many."""
    count = 0
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        if conv is None or not conv.transposed or conv.padding is None or conv.groups != 1:
            continue
        if set(conv.stride) != {1} or any(conv.output_padding) or conv.axes > 2:
            continue
        stored = codes_behind(conv.weight)
        kernel = tensor_of(module, stored)
        if kernel is None:
            continue
        reach = zip(conv.dilation, kernel.shape[2:], conv.padding, strict=True)
        padding = [d * (k - 1) - p for d, k, p in reach]
        direct = stored is conv.weight
        if min(padding) < 0 or not (direct or is_call(conv.weight, _q.dequantize_per_channel)):
            continue
        turned = kernel.detach().transpose(0, 1).flip(*range(2, kernel.dim()))
        reader = node if direct else conv.weight
        weight: Any = replace_tensor(module, reader, stored, turned)
        if not direct:
            named = arguments(conv.weight)
            _, scales, zeros, _, *limits = conv.weight.args
            codes = (weight, scales, zeros, 1 - named["axis"], *limits)
            with module.graph.inserting_before(node):
                weight = module.graph.call_function(_q.dequantize_per_channel.default, codes)
        target = aten.conv1d.default if conv.axes == 1 else aten.conv2d.default
        args = (conv.x, weight, conv.bias, [1] * conv.axes, padding, list(conv.dilation))
        with module.graph.inserting_before(node):
            plain = module.graph.call_function(target, args)
        plain.meta = dict(node.meta)
        node.replace_all_uses_with(plain)
        module.graph.erase_node(node)
        count += 1
    return count


def replace_padding(module: GraphModule) -> int:
    """Replace in place those that are neither 0 nor "same" on all axes; returns how many."""
    count = 0
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        if conv is None or not conv.transposed or not any(conv.padding or ()):
            continue
        assert conv.padding is not None
        kernel = tensor_of(module, codes_behind(conv.weight))
        if kernel is None:
            continue
        spans = [d * (k - 1) + 1 for d, k in zip(conv.dilation, kernel.shape[2:], strict=True)]
        parts = zip(spans, conv.stride, conv.padding, conv.output_padding, strict=True)
        if all(span - stride == 2 * p and more == 0 for span, stride, p, more in parts):
            continue
        place = [a.name for a in node.target._schema.arguments].index("padding")
        node.update_arg(place, [0] * conv.axes)
        whole, readers = node, list(node.users)
        with module.graph.inserting_before(node.next):
            for axis, p in enumerate(conv.padding):
                if p:
                    args = (whole, 2 + axis, p, -p)
                    whole = module.graph.call_function(aten.slice.Tensor, args)
        for reader in readers:
            reader.replace_input_with(node, whole)
        count += 1
    return count


def _zero_is_zero(module: GraphModule, weight: Node) -> bool:
    """Whether all zero points between a kernel and its codes are 0."""
    while weight.op == "call_function":
        named = arguments(weight)
        zero = named.get("zero_points", named.get("zero_point", 0))
        zeros = tensor_of(module, zero)
        if zeros.any() if zeros is not None else zero:
            return False
        weight = weight.args[0]  # type: ignore[assignment]
    return True
