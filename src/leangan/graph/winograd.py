"""3x3 convolutions with half of the multiplications, by Winograd's minimal filtering.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks": four neighbouring outputs
of three taps need twelve multiplications, or six between sums of inputs and sums of taps, F(4, 3).
Here for rows alone. For columns as well it would be a quarter, but there are 36 products then, each
an operator of its own, which runtimes lose much of the gain on; and rounding hurts more.

It is spelled with what every runtime has: the sums of inputs are depthwise convolutions, the
products are convolutions of 1x3. The sums of taps are computed from the stored kernel within the
graph, so that the file stays as small as it was; runtimes do that once, when they load it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.depth_to_space import depth_to_space
from leangan.graph.operators import Convolution, aten
from leangan.graph.rewrite import exact, free_path, new_tensor_node
from leangan.graph.weights import stored_kernels

_ROWS, _TAPS = 4, 3
"""Outputs at once, and taps of the kernel."""
_INPUTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""Sums of six inputs for the points 0, 1, -1, 2, -2 and infinity, at which the product of the two
polynomials is computed."""
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""Sums of three taps for the same points."""
_BIASED = 1
"""The product that goes into each output once: a bias is added to it."""
_GAIN = 32
"""Least product over sum of the channels in and out. What is saved goes with their product, what
sums cost with their sum: from 32 to 32 channels, which is 16, nothing is gained."""


@exact("winograd-rows", "3x3 convolutions")
def winograd_rows(module: GraphModule) -> int:
    """3x3 convolutions of many channels as F(4, 3) over rows.

    x -> conv(3x3)
    becomes
    x -> 6 depthwise convolutions (6x1, stride 4) -> a convolution of each (1x3) -> 4 sums
      -> depth-to-space(4, 1)

    Stride 1, dilation 1, one group. Heights that may be no multiple of four are filled up with
    zeros, and what comes of those is cropped.
    """
    paths: dict[str, str] = {}
    count = 0
    for conv, weight, _ in stored_kernels(module, transposed=False):
        if _pays(conv, weight.shape):
            _replace(module, conv, paths)
            count += 1
    return count


def _pays(conv: Convolution, kernel: torch.Size) -> bool:
    outputs, inputs, *taps = kernel
    gain = outputs * inputs / (outputs + inputs)
    return taps == [_TAPS, _TAPS] and set(conv.stride) == {1} and gain >= _GAIN


def _replace(module: GraphModule, conv: Convolution, paths: dict[str, str]) -> None:
    """Put four rows at once in the place of one convolution.

    Args:
        module: is changed.
        conv: of it, with a stored kernel.
        paths: of the constant sums by name, which the convolutions of a module share.
    """

    def constant(name: str, value: Tensor) -> Node:
        if name in paths:
            with graph.inserting_before(node):
                return graph.get_attr(paths[name])
        paths[name] = free_path(module, f"winograd.{name}")
        return new_tensor_node(module, node, paths[name], value, learned=False)

    node, graph = conv.node, module.graph
    outputs, inputs = (int(size) for size in conv.weight.meta["val"].shape[:2])
    assert conv.padding is not None
    top, left = conv.padding
    whole, height = list(node.meta["val"].shape), None
    with graph.inserting_before(node):
        x = conv.x
        if not statically_known_true(whole[2] % _ROWS == 0):
            size = graph.call_function(aten.sym_size.int, (x, 2))
            height = graph.call_function(operator.add, (size, 2 * top - _TAPS + 1))
            x = graph.call_function(aten.pad.default, (x, [0, 0, top, top + _ROWS - 1]))
            whole[2], top = None, 0
        products = []
        for point, (sums, taps) in enumerate(zip(_INPUTS, _KERNEL, strict=True)):
            column = torch.tensor(sums, dtype=torch.float32).reshape(1, 1, -1, 1)
            depthwise = constant(f"inputs_{inputs}_{point}", column.repeat(inputs, 1, 1, 1))
            args = (x, depthwise, None, [_ROWS, 1], [top, 0], [1, 1], inputs)
            y = graph.call_function(aten.conv2d.default, args)
            row = constant(f"taps_{point}", torch.tensor([taps], dtype=torch.float32))
            kernel = graph.call_function(aten.matmul.default, (row, conv.weight))
            bias = conv.bias if point == _BIASED else None
            products.append(
                graph.call_function(aten.conv2d.default, (y, kernel, bias, [1, 1], [0, left]))
            )
        y = graph.call_function(aten.cat.default, (_outputs(graph, products), 1))
        y = depth_to_space(graph, y, outputs, (_ROWS, 1), whole)
        if height is not None:
            y = graph.call_function(aten.slice.Tensor, (y, 2, 0, height))
    node.replace_all_uses_with(y)
    graph.erase_node(node)


def _outputs(graph: Graph, v: Sequence[Node]) -> list[Node]:
    """The polynomial through the products at 0, 1, -1, 2 and -2, by its even and odd part."""

    def add(a: Node, b: Node, factor: int = 1) -> Node:
        scaled = b if factor == 1 else graph.call_function(aten.mul.Tensor, (b, factor))
        return graph.call_function(aten.add.Tensor, (a, scaled))

    even, even_2 = add(v[1], v[2]), add(v[3], v[4])
    odd, odd_2 = (graph.call_function(aten.sub.Tensor, (v[i], v[i + 1])) for i in (1, 3))
    return [
        add(add(v[0], even), even_2),
        add(odd, odd_2, 2),
        add(even, even_2, 4),
        add(add(odd, odd_2, 8), v[5]),
    ]
