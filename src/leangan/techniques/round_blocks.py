"""Stretches of a graph that take one changed value in and give one out: residual blocks and such.

Layers of such a block can be fitted together, against what the block puts out (BRECQ, Li et al.
2021). Which they are is read from the graph, so that no architecture needs to be named.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch.fx import GraphModule, Node

MOST_LAYERS = 6
"""Layers of one block; neighbouring blocks are merged up to so many."""
_LOOK_AHEAD = 4
"""Blocks are looked for among so many times as many layers: branches lie one after the other."""


@dataclass(frozen=True)
class Block:
    """A part of a graph, by the names of its nodes."""

    entry: str | None
    """The one node outside of it that depends on layers and that it reads; None at the start."""
    given: tuple[str, ...]
    """What else it reads: inputs, sizes and what is computed of them alone."""
    nodes: tuple[str, ...]
    """In order of computation. Nothing outside reads them but the last."""
    layers: tuple[str, ...]


def find_blocks(module: GraphModule, layers: Collection[str]) -> list[Block]:
    """Blocks of 2 to 6 layers, none of which overlap, in order of their first layer.

    Args:
        module: the graph.
        layers: names of the nodes that are to be fitted.

    Returns:
        As large ones as there are. Layers that no block takes (dense skips) are in none.
    """
    live = _live(module, layers)
    regions: dict[str, list[tuple[Node | None, list[Node]]]] = {}
    for entry in (None, *live):
        for region in _regions(entry, live, layers):
            first = next(n.name for n in region if n.name in layers)
            regions.setdefault(first, []).append((entry, region))
    covered: set[str] = set()
    blocks = []
    for node in live:
        if node.name not in layers or node.name in covered:
            continue
        free = [
            (entry, region)
            for entry, region in regions.get(node.name, ())
            if not covered & {n.name for n in region}
        ]
        if not free:
            continue
        entry, region = max(free, key=lambda found: _size(found[1], layers))
        covered |= {n.name for n in region}
        blocks.append(_block(entry, region, live, layers))
    return blocks


def _live(module: GraphModule, layers: Collection[str]) -> dict[Node, None]:
    """The nodes that depend on a layer, in order; the others are the same in both graphs."""
    live: dict[Node, None] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            break
        if node.name in layers or any(n in live for n in node.all_input_nodes):
            live[node] = None
    return live


def _regions(
    entry: Node | None, live: dict[Node, None], layers: Collection[str]
) -> list[list[Node]]:
    """All parts with one way in, from `entry`, and one way out."""
    within: dict[Node, None] = {}
    count = 0
    found = []
    started = entry is None
    for node in live:
        if not started:
            started = node is entry
            continue
        sources = [n for n in node.all_input_nodes if n in live]
        if not all(n is entry or n in within for n in sources) or (entry and not sources):
            continue
        within[node] = None
        count += node.name in layers
        if count > _LOOK_AHEAD * MOST_LAYERS:
            break
        region = _before(node, within)
        inner = set(region)
        closed = all(user in inner for n in region if n is not node for user in n.users)
        if closed and 2 <= sum(n.name in layers for n in region) <= MOST_LAYERS:
            found.append(region)
    return found


def _before(node: Node, within: dict[Node, None]) -> list[Node]:
    """`node` and those of `within` that it depends on, in order."""
    needed = {node}
    left = [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source in within and source not in needed:
                needed.add(source)
                left.append(source)
    return [n for n in within if n in needed]


def _size(region: list[Node], layers: Collection[str]) -> tuple[int, int]:
    return sum(n.name in layers for n in region), len(region)


def _block(
    entry: Node | None, region: list[Node], live: dict[Node, None], layers: Collection[str]
) -> Block:
    given = {
        source.name
        for node in region
        for source in node.all_input_nodes
        if source not in live and source.op != "get_attr"
    }
    return Block(
        entry.name if entry else None,
        tuple(sorted(given)),
        tuple(n.name for n in region),
        tuple(n.name for n in region if n.name in layers),
    )
