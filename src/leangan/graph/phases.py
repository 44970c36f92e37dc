"""Transposed convolutions as plain ones that waste no multiplication, one per output phase.

Every stride-th output of a transposed convolution is a small convolution of the input (Shi et al.
2016, "Is the deconvolution layer the same as a convolutional layer?"). Computed each with the zeros
it needs itself, those phases are as large as the input, where one convolution for all of them
(transposed.py) computes a row and a column more and crops: half of all it does on a 4x4 map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.depth_to_space import depth_to_space
from leangan.graph.operators import Convolution, aten
from leangan.graph.rewrite import exact, free_path, new_tensor_node, replace_tensor
from leangan.graph.weights import stored_kernels


@exact("transposed-as-phases", "transposed convolutions")
def transposed_as_phases(module: GraphModule) -> int:
    """Strided ConvTranspose2d as one convolution per output phase, and a depth-to-space.

    x -> conv_transpose(k, stride s)
    becomes
    x -> s * s times [pad -> conv(about k / s)] -> concatenate -> depth-to-space, phases first

    Neighbouring phases that read the same inputs share a convolution. Any kernel, stride, padding
    and output_padding whose output is a multiple of the stride (kernel + output_padding -
    2 * padding is); groups and dilation 1.
    """
    count = 0
    for conv, weight, bias in stored_kernels(module, transposed=True):
        if set(conv.stride) == {1}:
            continue
        assert conv.padding is not None
        axes = [
            _phases(int(k), s, p, o)
            for k, s, p, o in zip(
                weight.shape[2:], conv.stride, conv.padding, conv.output_padding, strict=True
            )
        ]
        if axes[0] is None or axes[1] is None:
            continue
        _replace(module, conv, weight, bias, axes[0], axes[1])
        count += 1
    return count


@exact("latent-as-linear", "transposed convolutions")
def latent_as_linear(module: GraphModule) -> int:
    """ConvTranspose2d on a map that is always 1x1, as a linear layer and a view.

    A generator's first layer often is one: latent [N, z, 1, 1] -> [N, c, 4, 4]. Any kernel,
    stride and padding; groups 1, no output_padding.
    """
    count = 0
    for conv, weight, bias in stored_kernels(module, transposed=True):
        if set(conv.output_padding) != {0}:
            continue
        if [size if isinstance(size, int) else None for size in _sizes(conv.x)] != [1, 1]:
            continue
        assert conv.padding is not None
        for axis, zeros in zip((2, 3), conv.padding, strict=True):
            weight = weight.narrow(axis, zeros, weight.shape[axis] - 2 * zeros)
        inputs, channels, rows, columns = weight.shape
        node, graph = conv.node, module.graph
        flat = replace_tensor(module, node, conv.weight, weight.flatten(1).t())
        offset = None
        if conv.bias is not None and bias is not None:
            repeated = bias.repeat_interleave(rows * columns)
            offset = replace_tensor(module, node, conv.bias, repeated)
        with graph.inserting_before(node):
            batch = graph.call_function(aten.sym_size.int, (conv.x, 0))
            x = graph.call_function(aten.reshape.default, (conv.x, [batch, inputs]))
            x = graph.call_function(aten.linear.default, (x, flat, offset))
            shape: list[Any] = [batch, channels, rows, columns]
            x = graph.call_function(aten.reshape.default, (x, shape))
        node.replace_all_uses_with(x)
        graph.erase_node(node)
        count += 1
    return count


@dataclass(frozen=True)
class _Phase:
    """Every stride-th output along one axis, as a correlation with taps of the kernel.

    out[s * q + a] = sum_j w[s * j + a + padding] x[q - j], for j in first..last.
    """

    first: int
    last: int
    left: int
    """Zeros in front of x; never negative."""
    right: int
    """Zeros behind x; never negative."""


def _phases(kernel: int, stride: int, padding: int, output_padding: int) -> list[_Phase] | None:
    """The phases of one axis; None when they are not of equal size."""
    # The output has stride * (size + more) elements.
    more, uneven = divmod(kernel + output_padding - 2 * padding - stride, stride)
    if uneven:
        return None
    found = []
    for shift in range(padding, padding + stride):
        # Taps beyond the kernel, which are zeros, in place of dropping inputs at the border.
        first = min(-(shift // stride), more)
        last = max((kernel - 1 - shift) // stride, 0, first)
        found.append(_Phase(first, last, last, more - first))
    return found


def _sizes(node: Node) -> Sequence[Any]:
    """Height and width, numbers where they are fixed."""
    shape: Sequence[Any] = node.meta["val"].shape[2:]
    return shape


def _replace(
    module: GraphModule,
    conv: Convolution,
    weight: Tensor,
    bias: Tensor | None,
    rows: list[_Phase],
    columns: list[_Phase],
) -> None:
    graph, node, channels = module.graph, conv.node, int(weight.shape[1])
    assert conv.padding is not None
    places = list(itertools.product(range(len(rows)), range(len(columns))))
    runs = itertools.groupby(places, key=lambda ab: (rows[ab[0]], columns[ab[1]]))
    parts = []
    for (row, column), run in runs:
        together = list(run)
        kernels = [
            _taps(_taps(weight, 2, row, len(rows), a + conv.padding[0]),
                  3, column, len(columns), b + conv.padding[1])
            for a, b in together
        ]  # fmt: skip
        name = "phase_{}_{}".format(*together[0])
        kernel = _store(module, conv, conv.weight, name, torch.cat(kernels))
        offset = None
        if conv.bias is not None and bias is not None:
            offset = _store(module, conv, conv.bias, name, bias.repeat(len(together)))
        x, zeros = conv.x, [row.left, column.left]
        with graph.inserting_before(node):
            if (row.left, column.left) != (row.right, column.right):
                sides = [column.left, column.right, row.left, row.right]
                x, zeros = graph.call_function(aten.pad.default, (x, sides)), [0, 0]
            args = (x, kernel, offset, [1, 1], zeros)
            parts.append(graph.call_function(aten.conv2d.default, args))
    with graph.inserting_before(node):
        y = parts[0] if len(parts) == 1 else graph.call_function(aten.cat.default, (parts, 1))
        rates = len(rows), len(columns)
        y = depth_to_space(graph, y, channels, rates, conv.node.meta["val"].shape)
    node.replace_all_uses_with(y)
    graph.erase_node(node)


def _store(module: GraphModule, conv: Convolution, old: Node, phase: str, value: Tensor) -> Node:
    """`up.weight` of a phase becomes `up.phase_0_1.weight`."""
    owner, _, leaf = str(old.target).rpartition(".")
    path = ".".join(part for part in (owner, phase, leaf) if part)
    return new_tensor_node(module, conv.node, free_path(module, path), value)


def _taps(weight: Tensor, dim: int, phase: _Phase, stride: int, shift: int) -> Tensor:
    """The taps of one phase in the order of a correlation; zeros where the kernel has none."""
    index = stride * torch.arange(phase.last, phase.first - 1, -1) + shift
    size = weight.shape[dim]
    index = torch.where((index < 0) | (index >= size), size, index)
    kernel = torch.cat([weight, torch.zeros_like(weight.narrow(dim, 0, 1))], dim)
    kernel = kernel.index_select(dim, index)
    # (in, out, ...) until both axes are done, then (out, in, ...).
    return kernel.transpose(0, 1) if dim == 3 else kernel
