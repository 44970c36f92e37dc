"""Convolutions with few outputs, such as a generator's last one, by blocks of pixels."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.depth_to_space import depth_to_space
from leangan.graph.operators import Convolution, aten
from leangan.graph.rewrite import exact, replace_tensor
from leangan.graph.weights import stored_kernels

_LANES = 16
"""Outputs that a CPU's kernels compute at once, whether or not there are so many."""
_PLANE, _LINE = 2, 4
"""Pixels a side of a block; larger ones multiply more zeros than they use more lanes."""


@exact("outputs-as-blocks", "convolutions with few outputs")
def outputs_as_blocks(module: GraphModule) -> int:
    """Convolutions with few output channels as strided ones with a block of pixels as channels.

    x -> conv(k) to 3 channels
    becomes
    x -> conv(k + 1, stride 2) to 4 * 3 channels -> depth-to-space(2)

    Runtimes compute outputs of one place by sixteens: three take as long as sixteen. Each of the
    four kernels is the original's, moved by a row or column, with zeros in the row and column
    that is left: (k + 1)**2 / k**2 times the multiplications, on four times as many lanes. Where
    the kernel has one row, as in a 1-D convolution as 2-D, blocks are lines of four.

    Stride 1, dilation 1, one group, and outputs whose size is a multiple of the block's whatever
    the input's.
    """
    count = 0
    for conv, weight, bias in stored_kernels(module, transposed=False):
        if set(conv.stride) != {1}:
            continue
        block = _block(weight.shape, conv.node.meta["val"].shape)
        if block is not None:
            _replace(module, conv, weight, bias, block)
            count += 1
    return count


def _block(kernel: torch.Size, output: torch.Size) -> tuple[int, int] | None:
    """Rows and columns of pixels to compute at once; None where there is nothing to gain."""
    rows, columns = kernel[2:]
    if rows == columns == 1:
        return None
    side = _LINE if 1 in (rows, columns) else _PLANE
    block = tuple(1 if taps == 1 else side for taps in (rows, columns))
    fits = kernel[0] * math.prod(block) <= _LANES
    whole = all(
        statically_known_true(size % part == 0)
        for size, part in zip(output[2:], block, strict=True)
    )
    return (block[0], block[1]) if fits and whole else None


def _replace(
    module: GraphModule,
    conv: Convolution,
    weight: Tensor,
    bias: Tensor | None,
    block: tuple[int, int],
) -> None:
    node, graph = conv.node, module.graph
    new_weight = replace_tensor(module, node, conv.weight, _moved(weight, block))
    new_bias = None
    if conv.bias is not None and bias is not None:
        new_bias = replace_tensor(module, node, conv.bias, bias.repeat(math.prod(block)))
    padding = list(conv.padding or ())
    with graph.inserting_before(node):
        args = (conv.x, new_weight, new_bias, list(block), padding)
        y = graph.call_function(aten.conv2d.default, args)
        y = depth_to_space(graph, y, len(weight), block, node.meta["val"].shape)
    node.replace_all_uses_with(y)
    graph.erase_node(node)


def _moved(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """(out, in, k, l) to (rows * columns * out, in, k + rows - 1, l + columns - 1)."""
    outputs, inputs, high, wide = weight.shape
    rows, columns = block
    made = weight.new_zeros(rows * columns, outputs, inputs, high + rows - 1, wide + columns - 1)
    for place, (a, b) in enumerate(itertools.product(range(rows), range(columns))):
        made[place, :, :, a : a + high, b : b + wide] = weight
    return made.flatten(0, 1)
