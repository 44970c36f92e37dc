"""A convolution or linear layer as the matrix product that it is, at chosen positions."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from leangan.graph.operators import Convolution, arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import tensor_of


@dataclass(frozen=True)
class Layer:
    """A layer with a stored weight, whose output is a sum over patches of its input."""

    node: Node
    x: Node
    weight: Node
    bias: Node | None
    conv: Convolution | None
    """None for a linear layer."""

    @property
    def groups(self) -> int:
        """Groups of channels that do not see each other."""
        return self.conv.groups if self.conv else 1

    @property
    def channel_axis(self) -> int:
        """The channel axis of input and output, counted from the end for a linear layer."""
        return 1 if self.conv else -1


def read_layer(module: GraphModule, node: Node) -> Layer | None:
    """`node` as a layer that can be refitted, None when it is anything else."""
    if conv := read_convolution(node):
        if conv.padding is None or not _stored(module, conv.weight, conv.bias):
            return None
        return Layer(node, conv.x, conv.weight, conv.bias, conv)
    if is_call(node, aten.linear):
        named = arguments(node)
        if _stored(module, named["weight"], named["bias"]):
            return Layer(node, named["input"], named["weight"], named["bias"], None)
    return None


def _stored(module: GraphModule, weight: Node, bias: Node | None) -> bool:
    return tensor_of(module, weight) is not None and (
        bias is None or tensor_of(module, bias) is not None
    )


def forward_weight(layer: Layer, weight: Tensor) -> Tensor:
    """The weight as [groups, out / groups, in / groups, *taps], correlating; also of a transposed.

    The inverse is `stored_weight`.
    """
    if layer.conv is None:
        return weight[None]
    groups = layer.groups
    if not layer.conv.transposed:
        return weight.unflatten(0, (groups, -1))
    spatial = tuple(range(2, weight.dim()))
    return weight.flip(spatial).unflatten(0, (groups, -1)).transpose(1, 2)


def stored_weight(layer: Layer, weight: Tensor) -> Tensor:
    """What `forward_weight` was made of."""
    if layer.conv is None:
        return weight[0]
    if not layer.conv.transposed:
        return weight.flatten(0, 1)
    spatial = tuple(range(2, weight.dim() - 1))
    return weight.transpose(1, 2).flatten(0, 1).flip(spatial)


@dataclass(frozen=True)
class Phase:
    """Output positions that use the same taps: all of a plain layer, some of a transposed one."""

    taps: Tensor
    """Which of the kernel's taps, as indices into the flattened kernel."""
    offset: tuple[int, ...]
    """The first position along each spatial axis of the output."""
    stride: tuple[int, ...]


def phases(layer: Layer, kernel: tuple[int, ...]) -> list[Phase]:
    """The phases of a layer with a kernel of these spatial sizes.

    Between the elements of a transposed convolution's input stand stride - 1 zeros, so that an
    output position reads every stride-th tap only, and each tap belongs to one phase.
    """
    conv = layer.conv
    if conv is None or not conv.transposed:
        ones = (1,) * len(kernel)
        return [Phase(torch.arange(math.prod(kernel)), (0,) * len(kernel), ones)]
    assert conv.padding is not None
    axes = zip(kernel, conv.stride, conv.padding, conv.dilation, strict=True)
    choices = [
        [
            (first, [t for t in range(k) if (first + t * d - (d * (k - 1) - p)) % s == 0])
            for first in range(s)
        ]
        for k, s, p, d in axes
    ]
    found = []
    for picks in itertools.product(*choices):
        flat = torch.zeros(1, dtype=torch.long)
        for (_, taps), size in zip(picks, kernel, strict=True):
            flat = (flat[:, None] * size + torch.tensor(taps, dtype=torch.long)).flatten()
        if flat.numel():
            found.append(Phase(flat, tuple(first for first, _ in picks), conv.stride))
    return found


class Rows:
    """Patches of one input, and what a layer should put out for them, at chosen positions."""

    def __init__(self, layer: Layer, kernel: tuple[int, ...], x: Tensor) -> None:
        """Lay the kernel on an input.

        Args:
            layer: that reads `x`.
            kernel: its spatial sizes.
            x: [N, C, *spatial], or [..., C] for a linear layer.
        """
        self.layer = layer
        conv = layer.conv
        if conv is None:
            self.view = x.reshape(-1, x.shape[-1])
            return
        assert conv.padding is not None
        if conv.transposed:
            stuffed = x.new_zeros(
                *x.shape[:2],
                *((n - 1) * s + 1 for n, s in zip(x.shape[2:], conv.stride, strict=True)),
            )
            spaced: Any = (..., *(slice(None, None, s) for s in conv.stride))
            stuffed[spaced] = x
            ends = [
                (d * (k - 1) - p, d * (k - 1) - p + o)
                for k, p, d, o in zip(
                    kernel, conv.padding, conv.dilation, conv.output_padding, strict=True
                )
            ]
            x, stride = stuffed, (1,) * conv.axes
        else:
            ends, stride = [(p, p) for p in conv.padding], conv.stride
        x = F.pad(x, [n for pair in reversed(ends) for n in pair])
        for axis, (k, s, d) in enumerate(zip(kernel, stride, conv.dilation, strict=True)):
            x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
        self.view = x  # [N, C, *out, *kernel], no copy

    def count(self, phase: Phase) -> int:
        """The number of positions of a phase."""
        return math.prod(self._grid(phase))

    def _grid(self, phase: Phase) -> list[int]:
        if self.layer.conv is None:
            return [self.view.shape[0]]
        out = self.view.shape[2 : 2 + len(phase.offset)]
        sizes = [
            max(0, -(-(n - first) // s))
            for n, first, s in zip(out, phase.offset, phase.stride, strict=True)
        ]
        return [self.view.shape[0], *sizes]

    def _places(self, phase: Phase, chosen: Tensor) -> Any:
        """An index that picks all channels at the chosen positions."""
        batch, *spatial = torch.unravel_index(chosen, self._grid(phase))
        scaled = zip(spatial, phase.stride, phase.offset, strict=True)
        return (batch, slice(None), *(place * s + first for place, s, first in scaled))

    def inputs(self, phase: Phase, chosen: Tensor, shift: Tensor) -> Tensor:
        """Patches: [G, rows, in / G * taps].

        Args:
            phase: of the layer.
            chosen: positions, as indices below `count`.
            shift: [C], taken off every channel, of the zero padding too.
        """
        if self.layer.conv is None:
            return (self.view[chosen] - shift)[None]
        patches = self.view[self._places(phase, chosen)]  # [rows, C, *kernel]
        patches = patches.flatten(2)[:, :, phase.taps] - shift[:, None]
        return patches.unflatten(1, (self.layer.groups, -1)).transpose(0, 1).flatten(2)

    def outputs(self, y: Tensor, phase: Phase, chosen: Tensor) -> Tensor:
        """The values of `y`, shaped as the layer's output, there: [G, rows, out / G]."""
        if self.layer.conv is None:
            return y.reshape(-1, y.shape[-1])[chosen][None]
        return y[self._places(phase, chosen)].unflatten(1, (self.layer.groups, -1)).transpose(0, 1)
