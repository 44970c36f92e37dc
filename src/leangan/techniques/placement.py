"""Where quantize and dequantize operators belong in a generator's graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.rewrite import layer_name, tensor_of

_aten = torch.ops.aten

WEIGHTED: dict[object, int] = {
    _aten.conv1d.default: 0,
    _aten.conv2d.default: 0,
    _aten.linear.default: 0,
    _aten.conv_transpose1d.default: 1,
    _aten.conv_transpose2d.input: 1,
}
"""The operators that can run in 8 bits, with the output-channel axis of their weight."""
TRANSPOSED = (_aten.conv_transpose1d.default, _aten.conv_transpose2d.input)
_MOVES = {
    _aten.pad.default,
    _aten.pixel_shuffle.default,
    _aten.pixel_unshuffle.default,
    _aten.upsample_nearest2d.vec,
    _aten.view.default,
    _aten.permute.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.slice.Tensor,
}
"""Operators that put out values of their first input (or zero, which is exact) and no others."""
_SPATIAL_PADS: dict[object, int] = {
    _aten.conv1d.default: 2,
    _aten.conv2d.default: 4,
    _aten.conv_transpose1d.default: 2,
    _aten.conv_transpose2d.input: 4,
}
"""Numbers of a padding that leaves channels alone; one of more, or before a linear layer, pads
channels."""
_MIXES_CHANNELS = {
    _aten.pixel_shuffle.default,
    _aten.pixel_unshuffle.default,
    _aten.view.default,
    _aten.permute.default,
}


def quantizable(module: GraphModule) -> dict[str, Node]:
    """The layers that can run in 8 bits, by name, in the order they are computed."""
    found = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in WEIGHTED:
            weight = tensor_of(module, node.args[1])
            if weight is not None and weight.is_floating_point():
                found[layer_name(node)] = node
    return found


def source_of(node: Node) -> tuple[Node, Node]:
    """Where the values that enter a layer were computed, and who takes them from there.

    The taker is the layer itself, or the first of the operators in front of it that only move
    values (padding, shuffles): quantizing before those is exact and moves a quarter of the bytes.
    """
    taker, source = node, node.args[0]
    assert isinstance(source, Node)
    while (
        source.op == "call_function"
        and source.target in _MOVES
        and len(source.users) == 1
        and _keeps_values(source)
    ):
        before = source.args[0]
        assert isinstance(before, Node)
        taker, source = source, before
    return source, taker


@dataclass(frozen=True)
class Pool:
    """Layers whose inputs hold common values, and so are rounded alike.

    The phases of a transposed convolution read one tensor; the layers of a dense block read joins
    of ever more of the same ones. With several ranges each of these values would be rounded once
    per layer, in an operator of its own; with one it is rounded where it is computed.
    """

    reads: Mapping[Node, tuple[Node, ...]]
    """By layer, in the order of computation: what it reads, or the parts of that, in their order,
    where it is joined along the channels."""

    @property
    def layers(self) -> tuple[Node, ...]:
        """In the order of computation."""
        return tuple(self.reads)

    @property
    def values(self) -> tuple[Node, ...]:
        """All that is read, each once."""
        return tuple(dict.fromkeys(value for read in self.reads.values() for value in read))

    def channels(self, layer: Node) -> Tensor | slice:
        """Where the input channels of `layer` lie among those of all `values`."""
        if len(self.values) == 1:
            return slice(None)
        widths = {value: value.meta["val"].shape[1] for value in self.values}
        first, start = {}, 0
        for value, width in widths.items():
            first[value], start = start, start + width
        return torch.cat([torch.arange(widths[v]) + first[v] for v in self.reads[layer]])


def pools(layers: Iterable[Node]) -> list[Pool]:
    """Put together the layers that read common values, in the order of computation."""
    found: list[Pool] = []
    for node in layers:
        parts = _parts(source_of(node)[0])
        shared = [pool for pool in found if set(pool.values) & set(parts)]
        reads = {layer: read for pool in shared for layer, read in pool.reads.items()}
        together = Pool({**reads, node: parts})
        if shared:
            found[found.index(shared[0])] = together
            found = [pool for pool in found if pool not in shared]
        else:
            found.append(together)
    return found


def _parts(source: Node) -> tuple[Node, ...]:
    dim = source.args[1] if len(source.args) > 1 else 0
    if source.op != "call_function" or source.target is not _aten.cat.default or dim != 1:
        return (source,)
    parts = source.args[0]
    assert isinstance(parts, list)
    return tuple(leaf for part in parts for leaf in _parts(part))


def keeps_channels(node: Node) -> bool:
    """Whether the operators between a layer's source and the layer leave channels at axis 1.

    Only then can each channel be scaled before it is quantized.
    """
    source, _ = source_of(node)
    step = node.args[0]
    while step is not source:
        assert isinstance(step, Node)
        axis = step.args[1] if len(step.args) > 1 else 0
        shifted = step.target in (_aten.unsqueeze.default, _aten.squeeze.dim, _aten.slice.Tensor)
        if step.target in _MIXES_CHANNELS or (shifted and not (isinstance(axis, int) and axis > 1)):
            return False
        if step.target is _aten.pad.default:
            sides = step.args[1]
            if not isinstance(sides, list) or len(sides) > _SPATIAL_PADS.get(node.target, 0):
                return False
        step = step.args[0]
    return True


def groups_of(node: Node) -> int:
    """The number of groups of a convolution, 1 for a linear layer."""
    position = 6  # both conv*d and conv_transpose*d take groups at this place
    return int(node.args[position]) if len(node.args) > position else 1  # type: ignore[arg-type]


def _keeps_values(node: Node) -> bool:
    if node.target is not _aten.pad.default:
        return True
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    return bool(mode != "constant" or value in (None, 0, 0.0))
