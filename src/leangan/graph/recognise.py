"""Operators that were spelled out by smaller ones, as the one that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.operators import aten, is_call, only_user

BY_CHANNEL = [0, 1, 4, 2, 5, 3]
"""(N, C, rows, columns, H, W) to (N, C, H, rows, W, columns), which is pixel_shuffle."""
BY_PHASE = [0, 3, 4, 1, 5, 2]
"""(N, rows, columns, C, H, W) to (N, C, H, rows, W, columns), see `depth_to_space`."""
_VIEWS = (
    aten.view,
    aten.reshape,
    aten._unsafe_view,
    aten.unsqueeze,
    aten.squeeze,
    aten.clone,
)
"""What leaves all elements in their order."""


def recognise_shuffles(module: GraphModule) -> int:
    """Views, a permute and views that come to a pixel_shuffle: old exporters and older code."""
    return put_shuffles(module.graph, BY_CHANNEL)


def put_shuffles(graph: Graph, order: list[int]) -> int:
    """A pixel_shuffle where views and a permute by `order` stand; returns how many.

    Where that is `BY_PHASE` the values land in other channels than before, at the same places.
    """
    count = 0
    for node in list(graph.nodes):
        if not is_call(node, aten.permute) or list(node.args[1]) != order:
            continue
        before = _until_picture(node.args[0], lambda n: n.args[0])
        after = _until_picture(only_user(node), only_user)
        rate = _rate(before, node.args[0], after, order[1])
        if before is None or after is None or rate is None:
            continue
        with graph.inserting_before(after):
            shuffle = graph.call_function(aten.pixel_shuffle.default, (before, rate))
        shuffle.meta["val"] = after.meta["val"]
        after.replace_all_uses_with(shuffle)
        count += 1
    return count


def _until_picture(node: Any, on: Callable[[Node], Any]) -> Node | None:
    """The first value of four axes, walking over views from a node of more."""
    while isinstance(node, Node) and "val" in node.meta:
        if node.meta["val"].dim() == 4:
            return node
        if not is_call(node, *_VIEWS):
            return None
        node = on(node)
    return None


def _rate(before: Node | None, split: Node, after: Node | None, place: int) -> int | None:
    """How much is shuffled, the channels being at `place`; None where the shapes are not such."""
    if before is None or after is None or not is_call(after, *_VIEWS):
        return None
    batch, channels, height, width = before.meta["val"].shape
    parts = split.meta["val"].shape
    kept, rate = parts[place], parts[2]
    if not (isinstance(rate, int) and isinstance(kept, int)) or rate < 2:
        return None
    split_so = [batch, rate, rate, rate, height, width]
    split_so[place] = kept
    equal = [
        *zip(parts, split_so, strict=True),
        *zip(after.meta["val"].shape, (batch, kept, height * rate, width * rate), strict=True),
        (channels, kept * rate * rate),
    ]
    return rate if all(statically_known_true(a == b) for a, b in equal) else None
