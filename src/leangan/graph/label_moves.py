"""How labels pass operators that move elements: they are run on the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.label_common import axis_of, freeze_along, note_role, unknown
from leangan.graph.labels import Field, Fields, along, spread, vector
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.rewrite import tensor_of
from leangan.graph.walk import Rule, Walk


def _move(run: Walk, node: Node) -> Any:
    args, kwargs = run.value(node.args), run.value(node.kwargs)
    target: Any = node.target
    if is_call(node, aten.view, aten._unsafe_view):
        target = aten.reshape.default  # labels that were moved have other strides
    made: list[Any] = [target(f.labels, *args[1:], **kwargs) for f in run.of(node.args[0])]
    if isinstance(run.values[node], tuple | list):
        pieces = len(run.values[node])
        return [tuple(x for m in made for x in run.labels.make(m[i])) for i in range(pieces)]
    return tuple(x for m in made for x in run.labels.make(m))


def _pixel_shuffle(run: Walk, node: Node) -> Fields:
    """A channel goes with all its pixels, also where an unshuffle would part them again."""
    rank = run.values[node].dim()
    return tuple(
        left
        for made in _move(run, node)
        for left in run.labels.collapse(made, [rank - 2, rank - 1], "becomes pixels of one channel")
    )


def _slice(run: Walk, node: Node) -> Fields:
    named = arguments(node)
    axis = axis_of(run, named["self"], named["dim"])
    step, start = run.value(named["step"]), named["start"]
    if step != 1 or isinstance(start, Node) or isinstance(named["end"], Node):
        freeze_along(run, named["self"], axis, "is cut by a step or a size that is not fixed")
    return _move(run, node)


def _select(run: Walk, node: Node) -> Fields:
    axis, index = axis_of(run, node.args[0], node.args[1]), run.value(node.args[2])
    for made in run.of(node.args[0]):
        if made.axes == (axis,):
            run.labels.freeze(vector(made, axis)[index].reshape(1), "is used alone")
    rest = tuple(f for f in run.of(node.args[0]) if f.axes != (axis,))
    return tuple(x for f in rest for x in run.labels.make(f.labels.select(axis, index)))


def _cat(run: Walk, node: Node) -> Fields:
    parts: Any = node.args[0]
    parts = [p for p in parts if run.shape(p) != (0,)]
    axis = axis_of(run, parts[0], arguments(node).get("dim", 0))
    shape = run.shape(node)
    pieces: list[Tensor] = []
    found: list[Field] = []
    others: Fields = ()
    shrunk = _without(run.shape(parts[0]), axis)
    for number, part in enumerate(parts):
        mine = along(run.of(part), axis)
        for extra in run.of(part):
            if axis in extra.axes and extra is not mine:
                run.freeze((extra,), "is concatenated along two kinds of channels")
        pieces.append(mine.labels if mine else torch.zeros(run.shape(part), dtype=torch.int64))
        rest = tuple(
            Field(f.labels.narrow(axis, 0, 1), f.axes) for f in run.of(part) if axis not in f.axes
        )
        reason = f"meets values that cannot be cut, in {node.name}"
        others = rest if not number else run.labels.meet((others, shrunk), (rest, shrunk), reason)
    found += run.labels.make(torch.cat(pieces, axis))
    for made in others:
        found += run.labels.make(made.labels.expand(shape))
    return tuple(found)


def _stack(run: Walk, node: Node) -> Fields:
    parts: Any = node.args[0]
    fields = run.meet(node, parts)
    axis = axis_of(run, node, arguments(node).get("dim", 0))
    return tuple(
        x for f in fields for x in run.labels.make(f.labels.unsqueeze(axis).expand(run.shape(node)))
    )


def _expand(run: Walk, node: Node) -> Fields:
    """An axis that is made by repeating one value can be cut anywhere: it gets its own labels."""
    before, after = run.shape(node.args[0]), run.shape(node)
    sizes: Any = node.args[1]
    before = (1,) * (len(after) - len(before)) + before
    found = list(_move(run, node))
    for axis, (small, large) in enumerate(zip(before, after, strict=True)):
        if small == 1 and large > 1 and isinstance(sizes[axis], int):
            found += run.labels.make(spread(run.labels.fresh(large), after, axis))
    return tuple(found)


def _create(run: Walk, node: Node) -> Fields:
    """A constant or noise of literal sizes can be cut anywhere, too."""
    sizes: Any = node.args[0]
    shape = run.shape(node)
    return tuple(
        x
        for axis, size in enumerate(shape)
        if size > 1 and isinstance(sizes[axis], int)
        for x in run.labels.make(spread(run.labels.fresh(size), shape, axis))
    )


def _as_real(run: Walk, node: Node) -> Fields:
    """A complex number becomes two: an axis of size 2 at the end."""
    shape = run.shape(node)
    return tuple(
        x
        for f in run.of(node.args[0])
        for x in run.labels.make(f.labels.unsqueeze(-1).expand(shape))
    )


def _as_complex(run: Walk, node: Node) -> Fields:
    axis = len(run.shape(node))
    return tuple(
        x
        for f in run.of(node.args[0])
        for left in run.labels.collapse(f, [axis], "is a part of a complex number")
        for x in run.labels.make(left.labels.select(axis, 0))
    )


def _index(run: Walk, node: Node) -> Fields:
    table, places = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    real = [tensor_of(run.module, p) if p is not None else None for p in places]
    if any(p is not None and r is None for p, r in zip(places, real, strict=True)):
        return unknown(run, node)
    indexed = [axis for axis, p in enumerate(places) if p is not None]
    found: list[Field] = []
    for made in run.of(table):
        if set(indexed) & set(made.axes):
            run.freeze((made,), "is looked up by an index")
        else:
            found += run.labels.make(aten.index.Tensor(made.labels.contiguous(), real))
    return tuple(found)


def _embedding(run: Walk, node: Node) -> Fields:
    freeze_along(run, node.args[0], 0, "is looked up by an index")
    table = along(run.of(node.args[0]), 1)
    shape = run.shape(node)
    if table is None:
        return ()
    note_role(run, node.args[0], 1, "out")
    return run.labels.make(spread(vector(table, 1), shape, len(shape) - 1))


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else s for a, s in enumerate(shape))


RULES: dict[str, Rule] = {
    (
        "view reshape _unsafe_view permute transpose t squeeze unsqueeze flatten split "
        "split_with_sizes chunk unbind pixel_unshuffle channel_shuffle flip movedim "
        "unflatten narrow tensor_split numpy_T mT"
    ): _move,
    "pixel_shuffle": _pixel_shuffle,
    "slice": _slice,
    "select": _select,
    "cat concat": _cat,
    "stack": _stack,
    "expand repeat": _expand,
    "full zeros ones rand randn empty": _create,
    "view_as_real": _as_real,
    "view_as_complex": _as_complex,
    "index": _index,
    "embedding": _embedding,
}
"""By the names of ATen operators."""
