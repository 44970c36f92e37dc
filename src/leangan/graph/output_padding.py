"""Transposed convolutions without output_padding, which some converters do not know."""

from __future__ import annotations

import torch.nn.functional as F
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.operators import arguments, read_convolution
from leangan.graph.rewrite import codes_behind, replace_tensor, rewrite, tensor_of


def pad_kernels(generator: Generator) -> Generator:
    """Every output_padding as zeros at the end of the kernel, float or quantized.

    conv_transpose(k, output_padding p)   becomes   conv_transpose(k + p)

    The same rows come out: each further row or column of the kernel adds one to the output, and
    its zeros add nothing. A kernel whose code 0 is not the number 0 stays as it is.
    """
    return rewrite(generator, "pad-kernels", {"output paddings": replace_output_padding})


def replace_output_padding(module: GraphModule) -> int:
    """Replace them in place; returns how many."""
    count = 0
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        if conv is None or not conv.transposed or not any(conv.output_padding):
            continue
        stored = codes_behind(conv.weight)
        kernel = tensor_of(module, stored)
        if kernel is None or not _zero_is_zero(module, conv.weight):
            continue
        sides = [side for more in reversed(conv.output_padding) for side in (0, more)]
        reader = next(iter(stored.users))
        padded = replace_tensor(module, reader, stored, F.pad(kernel.detach(), sides))
        reader.replace_input_with(stored, padded)
        place = [a.name for a in node.target._schema.arguments].index("output_padding")
        node.update_arg(place, [0] * conv.axes)
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
