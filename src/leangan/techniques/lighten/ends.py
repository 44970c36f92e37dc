"""A generator's first and last layers, where they meet a change of resolution by two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.generator import Generator
from leangan.graph.operators import (
    POINTWISE,
    Convolution,
    arguments,
    aten,
    is_call,
    only_user,
)
from leangan.graph.weights import stored_kernel

NORMS = (aten.instance_norm, aten.batch_norm, aten.prelu)
"""Operators with a number per channel."""

_FEW = 4
"""Channels that a picture has, at most."""


@dataclass(frozen=True)
class Layer:
    """A convolution with its stored weight and bias, shapes as in `Convolution`."""

    conv: Convolution
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class End:
    """Two convolutions, one at full resolution and one that halves or doubles it.

    At the beginning the one at full resolution comes first, at the end it comes last.
    """

    first: Layer
    last: Layer
    between: tuple[Node, ...]
    """Norms and activations, in order."""
    padding: int
    """On each side of the convolution at full resolution, half its kernel."""
    pad: Node | None
    """What pads there; None where the convolution does so itself, with zeros."""
    rises: bool
    """Whether this is the end of the generator, where the resolution doubles."""

    @property
    def source(self) -> Node:
        """What the convolution at full resolution reads, before that is padded."""
        conv = self.last.conv if self.rises else self.first.conv
        return conv.x if self.pad is None else self.pad.all_input_nodes[0]

    @property
    def mode(self) -> str:
        """How `aten.pad` calls the values that are padded with."""
        return "constant" if self.pad is None else _read_pad(self.pad)[1]


def ends(generator: Generator, module: GraphModule) -> Iterator[End]:
    """All of them: kernels of odd size at full resolution, of 3 or 4 where it changes.

    The resolution is even whatever the input's, and the padding such that it stays. Between the
    two stand but norms and operators that treat each element alike.

    Args:
        generator: tells which sizes its inputs have.
        module: `generator.module()`.
    """
    inputs = module.graph.find_nodes(op="placeholder")
    even = {
        node
        for node, port in zip(inputs, generator.signature.inputs, strict=True)
        if port.layout == "NCHW" and all(port.multiple_of(axis) % 2 == 0 for axis in (2, 3))
    }
    for node in list(module.graph.nodes):
        for rises in (False, True):
            end = _end(module, node, rises)
            if end is not None and (end.source in even or _is_even(end)):
                yield end


def _end(module: GraphModule, node: Node, rises: bool) -> End | None:
    """The one that begins with the convolution `node`."""
    first = _layer(module, node, transposed=rises)
    if first is None:
        return None
    between: list[Node] = []
    pad, step = None, only_user(node)
    while step is not None and not is_call(step, aten.conv2d):
        if rises and pad is None and _read_pad(step)[0]:
            pad = step
        elif pad is None and _stays(step):
            between.append(step)
        else:
            return None
        step = only_user(step)
    last = None if step is None else _layer(module, step, transposed=False)
    if last is None:
        return None
    full, strided = (last, first) if rises else (first, last)
    if not rises and _read_pad(full.conv.x)[0]:
        pad = full.conv.x
    kernel = full.weight.shape[2]
    around = kernel // 2
    own = (0, 0) if pad is not None else (around, around)
    fits = (
        full.weight.shape[2] == full.weight.shape[3]
        and kernel % 2 == 1
        and kernel > 1
        and set(full.conv.stride) == {1}
        and full.conv.padding == own
        and (pad is None or _read_pad(pad)[0] == around)
        and full.weight.shape[0 if rises else 1] <= _FEW
        and _halves_or_doubles(strided)
    )
    return End(first, last, tuple(between), around, pad, rises) if fits else None


def _is_even(end: End) -> bool:
    """Whether the sizes at full resolution are even by themselves."""
    full = end.last if end.rises else end.first
    return all(statically_known_true(s % 2 == 0) for s in full.conv.node.meta["val"].shape[2:])


def _layer(module: GraphModule, node: Node, *, transposed: bool) -> Layer | None:
    found = stored_kernel(module, node, transposed=transposed)
    return None if found is None else Layer(*found)


def _stays(node: Node) -> bool:
    """Whether it treats each element alike, or each channel, with numbers that it has."""
    if is_call(node, aten.instance_norm):
        return arguments(node)["weight"] is not None and arguments(node)["bias"] is not None
    return is_call(node, *NORMS) or (is_call(node, *POINTWISE) and len(node.all_input_nodes) == 1)


def _halves_or_doubles(layer: Layer) -> bool:
    """Stride 2, padding 1, and a kernel of 4, or of 3 with the output padded where that rises."""
    conv, sizes = layer.conv, layer.weight.shape[2:]
    if set(conv.stride) != {2} or conv.padding != (1, 1) or sizes[0] != sizes[1]:
        return False
    if sizes[0] not in (3, 4):
        return False
    return not conv.transposed or set(conv.output_padding) == {4 - sizes[0]}


def _read_pad(node: Node) -> tuple[int, str]:
    """What a node pads on all four sides with values of the map, and how; 0 for other nodes."""
    if is_call(node, aten.pad):
        named = arguments(node)
        amounts, mode = named["pad"], str(named["mode"])
    elif is_call(node, aten.reflection_pad2d, aten.replication_pad2d):
        amounts = arguments(node)["padding"]
        mode = "reflect" if is_call(node, aten.reflection_pad2d) else "replicate"
    else:
        return 0, ""
    same = len(amounts) == 4 and all(isinstance(a, int) and a == amounts[0] for a in amounts)
    return (int(amounts[0]), mode) if same and mode in ("reflect", "replicate") else (0, "")
