"""Which layers of a student answer to which of its teacher, found by running both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.observe import observe
from leangan.graph.operators import aten, is_call, read_convolution


@dataclass(frozen=True)
class Pair:
    """Two nodes whose values lie at the same places of the picture."""

    teacher: str
    student: str
    teacher_channels: int
    student_channels: int


def find_pairs(
    teacher: GraphModule, student: GraphModule, inputs: tuple[Tensor, ...], most: int = 4
) -> list[Pair]:
    """Pairs of feature maps of the same spatial size, at the same shares of the way through it.

    No layer is named by hand, so that any teacher teaches any student, of another width, depth or
    kind. Where both work at several sizes, the one at which the teacher computes most comes first.

    Args:
        teacher: its graph.
        student: likewise.
        inputs: that both take.
        most: pairs to return at most.

    Returns:
        Nothing where no size is common, or only that of the output itself.
    """
    maps = [_maps(module, inputs) for module in (teacher, student)]
    common = [size for size in maps[0] if size in maps[1]]
    # A lone map of a size is no stage: often it is the output itself.
    common = [s for s in common if len(maps[0][s]) > 1 and len(maps[1][s]) > 1]
    common.sort(key=lambda size: -len(maps[0][size]))
    found: list[Pair] = []
    for size in common:
        theirs, ours = maps[0][size], maps[1][size]
        room = most - len(found)
        if room <= 0:
            break
        count = min(room, len(theirs), len(ours), max(1, -(-most // len(common))))
        for number in range(1, count + 1):
            share = number / count
            a, b = (x[max(0, round(share * len(x)) - 1)] for x in (theirs, ours))
            found.append(Pair(a[0], b[0], a[1], b[1]))
    return found


def _maps(
    module: GraphModule, inputs: tuple[Tensor, ...]
) -> dict[tuple[int, ...], list[tuple[str, int]]]:
    """By spatial size, name and channels of what convolutions and residual additions put out."""
    last = module.graph.output_node().all_input_nodes[0]
    seen = {
        node.name: _Shape()
        for node in module.graph.nodes
        if node is not last
        and (read_convolution(node) or (is_call(node, aten.add) and _of_two(node)))
    }
    observe(module, [inputs], {name: [shape] for name, shape in seen.items()})
    found: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, (_, channels, *size) in ((n, s.shape) for n, s in seen.items() if len(s.shape) > 2):
        found.setdefault(tuple(size), []).append((name, channels))
    return found


def _of_two(node: Node) -> bool:
    return len([n for n in node.args[:2] if isinstance(n, Node)]) == 2


@dataclass
class _Shape:
    """Of the value that was seen."""

    shape: tuple[int, ...] = ()

    def see(self, value: Tensor) -> None:
        self.shape = tuple(value.shape)


def watched(module: GraphModule, names: Sequence[str]) -> GraphModule:
    """The module with the values of these nodes behind its own outputs; changed in place."""
    nodes = {n.name: n for n in module.graph.nodes}
    output = module.graph.output_node()
    own = output.args[0]
    first = tuple(own) if isinstance(own, tuple | list) else (own,)
    output.args = ((*first, *(nodes[name] for name in names)),)
    # How the outputs were nested is no longer true: they come as they are.
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    return module
