"""Depth-to-space with the channels of a phase side by side, spelled for any runtime."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch.fx import Graph, Node

from leangan.graph.operators import aten


def depth_to_space(
    graph: Graph, x: Node, channels: int, rates: tuple[int, int], whole: Sequence[Any]
) -> Node:
    """(N, rows * columns * channels, H, W) to (N, channels, H * rows, W * columns).

    For rows = columns it is ONNX's DepthToSpace in mode DCR; torch's pixel shuffle is mode CRD,
    whose phases lie within each channel. Where channels are the innermost axis in memory, as on
    CPUs, this one copies them in a row. Axes of size 1 are left out of the permutation: runtimes
    are faster, or only able, with few axes.

    Args:
        graph: nodes are added where it inserts.
        x: what is shuffled.
        channels: of the result.
        rates: rows and columns.
        whole: the result's shape, numbers where they are fixed.
    """
    a, b = rates
    sizes = [graph.call_function(aten.sym_size.int, (x, axis)) for axis in (0, 2, 3)]
    batch, height, width = (
        size // rate if isinstance(size, int) else node
        for size, rate, node in zip((whole[0], *whole[2:]), (1, a, b), sizes, strict=True)
    )
    split: list[Any] = [batch, a, b, channels, height, width]
    places = [p for p in range(6) if p not in (1, 2) or split[p] != 1]
    order = [places.index(p) for p in (0, 3, 4, 1, 5, 2) if p in places]
    x = graph.call_function(aten.reshape.default, (x, [split[p] for p in places]))
    x = graph.call_function(aten.permute.default, (x, order))
    shape = [batch, channels, times(graph, height, a), times(graph, width, b)]
    return graph.call_function(aten.reshape.default, (x, shape))


def times(graph: Graph, size: Any, factor: int) -> Any:
    """`factor` times a size, which is a number or a node."""
    if isinstance(size, int):
        return size * factor
    return size if factor == 1 else graph.call_function(operator.mul, (size, factor))
