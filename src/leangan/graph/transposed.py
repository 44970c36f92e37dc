"""Transposed and upsampled convolutions as small ones at low resolution, then a shuffle.

Where a runtime has no fast kernel for transposed convolutions (OpenVINO does not use AMX for
them), this form is up to three times faster at the same number of multiplications. The idea is
that of Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from leangan.graph.depth_to_space import times
from leangan.graph.operators import arguments, aten, is_call, only_user
from leangan.graph.rewrite import exact, replace_tensor
from leangan.graph.weights import stored_kernels

_END = 2**63 - 1


@exact("transposed-as-shuffle", "transposed convolutions")
def transposed_as_shuffle(module: GraphModule) -> int:
    """Strided ConvTranspose2d as convolution, depth-to-space and crop.

    x -> conv_transpose(k, stride s)
    becomes
    x -> [pad] -> conv(about k / s) to s * s times the channels -> shuffle(s) -> [crop]

    Any kernel, stride, padding and output_padding; groups and dilation 1.
    """
    count = 0
    for conv, weight, bias in stored_kernels(module, transposed=True):
        if set(conv.stride) == {1}:
            continue
        assert conv.padding is not None
        axes = [
            _axis(int(weight.shape[2 + a]), conv.stride[a], conv.padding[a], conv.output_padding[a])
            for a in (0, 1)
        ]
        count += _replace(module, conv.node, conv.x, conv.weight, weight, conv.bias, bias, axes)
    return count


@exact("upsample-as-shuffle", "upsampled convolutions")
def upsample_as_shuffle(module: GraphModule) -> int:
    """Nearest upsampling and the convolution after it as one convolution at low resolution.

    x -> upsample_nearest(r) -> conv(k)
    becomes
    x -> [pad] -> conv(about k / r + 1) to r * r times the channels -> shuffle(r) -> [crop]

    The two together are a transposed convolution whose kernel is the convolution's, flipped and
    summed over r neighbours. Fewer multiplications: 4/9 of them for r = 2, k = 3.
    """
    count = 0
    for conv, weight, bias in stored_kernels(module, transposed=False):
        if set(conv.stride) != {1}:
            continue
        assert conv.padding is not None
        if not is_call(conv.x, aten.upsample_nearest2d) or only_user(conv.x) is None:
            continue
        factors = arguments(conv.x).get("scale_factors")
        if not factors or any(f != int(f) for f in factors):
            continue
        rates = [int(f) for f in factors]
        axes = []
        for a in (0, 1):
            kernel = int(weight.shape[2 + a])
            axes.append(_axis(kernel + rates[a] - 1, rates[a], kernel - 1 - conv.padding[a], 0))
        summed = _upsampled_kernel(weight, rates)
        source: Any = conv.x.args[0]
        count += _replace(module, conv.node, source, conv.weight, summed, conv.bias, bias, axes)
    return count


@dataclass(frozen=True)
class _Axis:
    """One axis of a transposed convolution, as taps at low resolution.

    out[o] = sum_i w[o + padding - stride * i] x[i]. With o + crop = stride * q + a this is, for
    each phase a, a correlation of x with every stride-th tap of w, at offsets first..last.
    """

    stride: int
    crop: int
    """Outputs to drop at the start, so that all phases together need the fewest taps."""
    first: int
    last: int
    """Output q reads x[q - last] to x[q - first]."""
    shift: int
    """Tap of phase a and offset j in the original kernel: stride * j + a + shift."""
    right: int
    """Zeros to append to x (the left side needs `last`); negative: drop."""
    crop_end: int


def _axis(kernel: int, stride: int, padding: int, output_padding: int) -> _Axis:
    def bounds(crop: int) -> tuple[int, int]:
        shift = padding - crop
        return -((stride - 1 + shift) // stride), (kernel - 1 - shift) // stride

    def taps(crop: int) -> int:
        first, last = bounds(crop)
        return last - first + 1

    crop = min(range(stride), key=lambda c: (taps(c), c))
    first, last = bounds(crop)
    # The output has stride * (size - 1) + excess rows; they come in groups of stride.
    excess = kernel + output_padding - 2 * padding
    more = -(-(excess - stride + crop) // stride)
    crop_end = stride * more - crop - excess + stride
    return _Axis(stride, crop, first, last, padding - crop, more - first, crop_end)


def _upsampled_kernel(weight: Tensor, rates: list[int]) -> Tensor:
    """Kernel (in, out, k + r - 1, ...) of the transposed convolution that replaces both."""
    flipped = weight.double().flip(2, 3).transpose(0, 1)
    rows, columns = flipped.shape[2:]
    result = flipped.new_zeros(*flipped.shape[:2], rows + rates[0] - 1, columns + rates[1] - 1)
    for i in range(rates[0]):
        for j in range(rates[1]):
            result[:, :, i : i + rows, j : j + columns] += flipped
    return result.to(weight.dtype)


def _replace(
    module: GraphModule,
    node: Node,
    x: Node,
    weight_node: Node,
    weight: Tensor,
    bias_node: Node | None,
    bias: Tensor | None,
    axes: list[_Axis],
) -> int:
    """Put the small convolution in the place of `node`; returns 1, or 0 when it would not fit."""
    if any(a.last < 0 or a.first > 0 for a in axes):
        return 0  # more padding than kernel: its taps would not surround the output
    rows, columns = axes[0].stride, axes[1].stride
    new_weight = replace_tensor(module, node, weight_node, _phases(weight, axes))
    new_bias = None
    if bias_node is not None and bias is not None:
        repeated = bias.repeat_interleave(rows * columns)
        new_bias = replace_tensor(module, node, bias_node, repeated)
    graph = module.graph
    with graph.inserting_before(node):
        padding = [a.last for a in axes]
        if any(a.right != a.last for a in axes):
            (top, left), (bottom, right) = padding, (a.right for a in axes)
            x = graph.call_function(aten.pad.default, (x, [left, right, top, bottom]))
            padding = [0, 0]
        args = (x, new_weight, new_bias, [1, 1], padding)
        y = graph.call_function(aten.conv2d.default, args)
        sizes = [
            (size + a.crop + a.crop_end) // a.stride if isinstance(size, int) else None
            for size, a in zip(node.meta["val"].shape[2:], axes, strict=True)
        ]
        y = _shuffle(graph, y, int(weight.shape[1]), rows, columns, sizes)
        for dim, axis in ((2, axes[0]), (3, axes[1])):
            if axis.crop or axis.crop_end:
                end = -axis.crop_end if axis.crop_end else _END
                y = graph.call_function(aten.slice.Tensor, (y, dim, axis.crop, end))
    node.replace_all_uses_with(y)
    graph.erase_node(node)
    return 1


def _phases(weight: Tensor, axes: list[_Axis]) -> Tensor:
    """(in, out, k, k) of a transposed convolution to (out * s * s, in, taps, taps) of a plain one.

    Output channel c * s * s + a * s + b gives row phase a and column phase b of channel c.
    """
    for dim, axis in zip((2, 3), axes, strict=True):
        # (phase, tap) -> index into the kernel, whose missing taps are zeros at its end.
        tap = torch.arange(axis.last, axis.first - 1, -1)
        phase = torch.arange(axis.stride)
        index = axis.stride * tap[None, :] + phase[:, None] + axis.shift
        size = weight.shape[dim]
        index = torch.where((index < 0) | (index >= size), size, index)
        padded = torch.cat([weight, torch.zeros_like(weight.narrow(dim, 0, 1))], dim)
        parts = padded.index_select(dim, index.flatten())
        weight = parts.unflatten(dim, index.shape).movedim(dim, 2 if dim == 2 else 3)
        if dim == 2:
            weight = weight.flatten(1, 2)  # (in, out * s, taps, k)
    # (in, out * s, taps, s, taps): the column phase joins the channels too.
    weight = weight.permute(1, 3, 0, 2, 4)
    return weight.flatten(0, 1)


def _shuffle(
    graph: Graph, x: Node, channels: int, rows: int, columns: int, sizes: list[int | None]
) -> Node:
    """(N, channels * rows * columns, H, W) to (N, channels, H * rows, W * columns).

    `sizes` holds H and W where they are known. Axes of size 1 are left out of the permutation:
    runtimes are faster, or only able, with few axes.
    """
    if rows == columns:
        return graph.call_function(aten.pixel_shuffle.default, (x, rows))
    batch = graph.call_function(aten.sym_size.int, (x, 0))
    height, width = (  # nodes or numbers
        graph.call_function(aten.sym_size.int, (x, axis)) if size is None else size
        for axis, size in zip((2, 3), sizes, strict=True)
    )
    split: list[Any] = [batch, channels, rows, columns, height, width]
    places = [p for p in range(6) if p < 2 or split[p] != 1]
    order = [places.index(p) for p in (0, 1, 4, 2, 5, 3) if p in places]
    x = graph.call_function(aten.reshape.default, (x, [split[p] for p in places]))
    x = graph.call_function(aten.permute.default, (x, order))
    whole: list[Any] = [batch, channels, times(graph, height, rows), times(graph, width, columns)]
    return graph.call_function(aten.reshape.default, (x, whole))
