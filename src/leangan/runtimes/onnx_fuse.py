"""Depth-to-space as the one ONNX operator that it is; runtimes have a kernel for that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_ORDER = [0, 3, 4, 1, 5, 2]
"""(N, rows, columns, C, H, W) to (N, C, H, rows, W, columns)."""


def fuse_depth_to_space(model: onnx.ModelProto) -> int:
    """Replace Reshape, Transpose, Reshape by DepthToSpace in mode DCR where they are just that.

    The exporter has no other form for it: pixel_shuffle is mode CRD, whose channels lie otherwise.
    Shapes are read from `value_info`; where they do not tell enough, the operators stay.

    Args:
        model: changed in place.

    Returns:
        The number of places.
    """
    from onnx import helper

    graph = model.graph
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.input, *graph.output]
    }
    makers = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    count = 0
    for last in list(graph.node):
        middle = makers.get(last.input[0]) if last.op_type == "Reshape" else None
        first = makers.get(middle.input[0]) if middle and middle.op_type == "Transpose" else None
        if middle is None or first is None or first.op_type != "Reshape":
            continue
        if any(readers[value] != 1 for value in (*first.output, *middle.output)):
            continue
        if [list(a.ints) for a in middle.attribute if a.name == "perm"] != [_ORDER]:
            continue
        ends = first.input[0], first.output[0], last.output[0]
        rate = _rate(*(shapes.get(name, []) for name in ends))
        if rate is None:
            continue
        fused = helper.make_node(
            "DepthToSpace", [ends[0]], [ends[2]], last.name, blocksize=rate, mode="DCR"
        )
        graph.node.insert(list(graph.node).index(last), fused)
        for node in (last, middle, first):
            graph.node.remove(node)
        count += 1
    if count:
        drop_unused(graph)
    return count


def _rate(before: list[str | int], split: list[str | int], after: list[str | int]) -> int | None:
    """The block size; None when these shapes are not those of a depth-to-space."""
    if (len(before), len(split), len(after)) != (4, 6, 4):
        return None
    batch, channels, height, width = before
    rate, kept = split[1], split[3]
    if not (isinstance(rate, int) and isinstance(kept, int) and isinstance(channels, int)):
        return None
    if rate < 2 or channels != rate * rate * kept:
        return None
    if split != [batch, rate, rate, kept, height, width]:
        return None
    return rate if after == [batch, kept, _times(height, rate), _times(width, rate)] else None


def _times(size: str | int, factor: int) -> str | int:
    """`factor` times a size, in the exporter's spelling: "2*s0 + 4" for 2 times "s0 + 2"."""
    if isinstance(size, int):
        return size * factor
    terms = []
    for term in re.split(r"(?<= [+-]) | (?=[+-] )", size):
        number, rest = re.fullmatch(r"(\d+(?=\*|$))?\*?(.*)", term).groups()  # type: ignore[union-attr]
        if term in "+-":
            terms.append(term)
        elif rest:
            terms.append(f"{int(number or 1) * factor}*{rest}")
        else:
            terms.append(str(int(number) * factor))
    return " ".join(terms)


def readers_of(graph: onnx.GraphProto) -> dict[str, int]:
    """How many times each value is read, an output of the graph once more."""
    count = {name: 0 for node in graph.node for name in node.output}
    for name in [n for node in graph.node for n in node.input] + [v.name for v in graph.output]:
        count[name] = count.get(name, 0) + 1
    return count


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove operators that nothing reads any more, and their constants."""
    while True:
        readers = readers_of(graph)
        unused = [n for n in graph.node if not any(readers[name] for name in n.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if not readers.get(t.name)]:
        graph.initializer.remove(tensor)
