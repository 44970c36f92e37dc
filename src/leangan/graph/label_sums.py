"""How labels pass operators that sum over channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.label_common import note_role, unknown, with_vector
from leangan.graph.labels import Field, Fields, Read, along, spread, vector
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.walk import Rule, Walk


def convolution(run: Walk, node: Node) -> Fields:
    """Convolutions of any kind: their weight's channels go with the maps'."""
    conv = read_convolution(node)
    assert conv is not None
    layer = node.name
    groups = int(run.value(conv.groups))
    inner, outer = (0, 1) if conv.transposed else (1, 0)
    shape = run.shape(node)
    _only_along(run, conv.weight, (inner, outer))
    x, passed = _summed(run, conv.x, 1, layer, batch=(0,))
    into, out = (_vector_of(run, conv.weight, a) for a in (inner, outer))
    channels = run.shape(conv.x)[1]
    if groups == 1:
        run.labels.merge(x, into)
        _read(run, node, conv.x, 1, x, conv.weight, inner)
        note_role(run, conv.weight, inner, "in", into, out)
        note_role(run, conv.weight, outer, "out")
    elif channels == groups:  # depthwise: a channel goes with its own kernel
        many = shape[1] // groups
        if conv.transposed:
            run.labels.merge(x, into)
            run.labels.freeze(out, "is shared by the groups of a depthwise layer")
            out = x.repeat_interleave(many)
        else:
            run.labels.merge(x.repeat_interleave(many), out)
    else:
        split = x.reshape(groups, -1)
        run.labels.merge(split, split[:1].expand(split.shape))
        _read(run, node, conv.x, 1, x, conv.weight, inner)
        if conv.transposed:
            # The weight holds all inputs and one group's outputs, which stand for all groups'.
            run.labels.merge(x, into)
            out = out.repeat(groups)
        else:
            run.labels.merge(split, into.expand(split.shape))
            rows = out.reshape(groups, -1)
            run.labels.merge(rows, rows[:1].expand(rows.shape))
        note_role(run, conv.weight, inner, "in", into, out)
        note_role(run, conv.weight, outer, "out")
    fields = [*run.labels.make(spread(out, shape, 1))] if shape[1] > 1 else []
    for made in passed:
        small = made.labels
        for axis in range(1, small.dim()):
            small = small.narrow(axis, 0, 1)
        fields += run.labels.make(small.expand(shape))
    return with_vector(run, node, tuple(fields), shape, conv.bias, 1)


def _linear(run: Walk, node: Node) -> Fields:
    named = arguments(node)
    given, weight = named["input"], named["weight"]
    shape, last = run.shape(node), len(run.shape(node)) - 1
    x, passed = _summed(run, given, last, node.name, batch=range(last))
    into, out = _vector_of(run, weight, 1), _vector_of(run, weight, 0)
    run.labels.merge(x, into)
    _read(run, node, given, last, x, weight, 1)
    note_role(run, weight, 1, "in", into, out)
    note_role(run, weight, 0, "out")
    fields = [*run.labels.make(spread(out, shape, last))] if shape[last] > 1 else []
    for made in passed:
        fields += run.labels.make(made.labels.narrow(last, 0, 1).expand(shape))
    return with_vector(run, node, tuple(fields), shape, named["bias"], last)


def _matmul(run: Walk, node: Node) -> Fields:
    first = 1 if is_call(node, aten.addmm, aten.baddbmm) else 0
    a, b = node.args[first], node.args[first + 1]
    if min(len(run.shape(a)), len(run.shape(b))) < 2:
        return unknown(run, node)
    shape = run.shape(node)
    fields = _product(run, node, a, b)
    if first:
        reason = f"meets values that cannot be cut, in {node.name}"
        added = node.args[0]
        fields = run.labels.meet((fields, shape), (run.of(added), run.shape(added)), reason)
    return fields


def _product(run: Walk, node: Node, a: Any, b: Any) -> Fields:
    """Batched a @ b: the last axis of `a` is summed with the last but one of `b`."""
    shape = run.shape(node)
    rank_a, rank_b = len(run.shape(a)), len(run.shape(b))
    left, kept_a = _summed(run, a, rank_a - 1, node.name, batch=range(rank_a - 1))
    right, kept_b = _summed(run, b, rank_b - 2, node.name, batch=[*range(rank_b - 2), rank_b - 1])
    run.labels.merge(left, right)
    _read(run, node, a, rank_a - 1, left, b, rank_b - 2)
    note_role(run, a, rank_a - 1, "in")
    note_role(run, a, rank_a - 2, "out")
    note_role(run, b, rank_b - 2, "in")
    note_role(run, b, rank_b - 1, "out")
    sides = []
    for made, rank, gone, free in (
        (kept_a, rank_a, rank_a - 1, rank_a - 2),
        (kept_b, rank_b, rank_b - 2, rank_b - 1),
    ):
        mine: list[Field] = []
        for one in made:
            # Heads are kept regular: what varies over the batch axes too is the same in each.
            if free in one.axes:
                parts = run.labels.collapse(one, range(rank - 2), "varies over heads")
            else:
                parts = (one,)
            for part in parts:
                mine += run.labels.make(part.labels.narrow(gone, 0, 1))
        sides.append(tuple(mine))
    thin_a = (*run.shape(a)[:-1], 1)
    thin_b = (*run.shape(b)[:-2], 1, run.shape(b)[-1])
    reason = f"meets values that cannot be cut, in {node.name}"
    fields = run.labels.meet((sides[0], thin_a), (sides[1], thin_b), reason)
    return tuple(x for f in fields for x in run.labels.make(f.labels.expand(shape)))


def _attention(run: Walk, node: Node) -> Fields:
    query, key, value = node.args[:3]
    rank = len(run.shape(query))
    one, _ = _summed(run, query, rank - 1, node.name, batch=())
    two, _ = _summed(run, key, rank - 1, node.name, batch=())
    run.labels.merge(one, two)
    _read(run, node, query, rank - 1, one, key, rank - 1)
    found: list[Field] = []
    for made in run.of(value):
        if made.axes == (rank - 1,) or rank - 1 in made.axes:
            for part in run.labels.collapse(made, range(rank - 1), "varies over heads"):
                small = part.labels
                for axis in range(rank - 1):
                    small = small.narrow(axis, 0, 1)
                found += run.labels.make(small.expand(run.shape(node)))
        else:
            run.freeze((made,), f"is weighed against others in {node.name}")
    mask = arguments(node).get("attn_mask")
    run.freeze(run.of(mask), f"is weighed against others in {node.name}")
    return tuple(found)


def _einsum(run: Walk, node: Node) -> Fields:
    """Letters that are not put out are summed over; the labels of one letter are one."""
    equation, parts = node.args[0], node.args[1]
    left, _, right = str(equation).replace(" ", "").partition("->")
    terms = left.split(",")
    shape = run.shape(node)
    if not right or "." in left or any(len(set(t)) < len(t) for t in terms):
        return unknown(run, node)
    letters: dict[str, Tensor] = {}
    plain: set[str] = set()
    for term, part in zip(terms, parts, strict=True):  # type: ignore[arg-type]
        for made in run.of(part):
            for left_over in run.labels.collapse(made, made.axes[1:], f"is mixed by {node.name}"):
                axis = left_over.axes[0]
                labels = vector(left_over, axis)
                if term[axis] in letters:
                    run.labels.merge(letters[term[axis]], labels)
                else:
                    letters[term[axis]] = labels
                if term[axis] not in right:
                    _read(run, node, part, axis, labels, None, axis)
        labelled = {term[f.axes[0]] for f in run.of(part)}
        sizes = run.shape(part)
        plain |= {a for a, n in zip(term, sizes, strict=True) if n > 1 and a not in labelled}
    for letter in plain & set(letters):
        run.labels.freeze(letters.pop(letter), f"meets values that cannot be cut, in {node.name}")
    return tuple(
        x
        for axis, letter in enumerate(right)
        if letter in letters
        for x in run.labels.make(spread(letters[letter], shape, axis))
    )


def _summed(
    run: Walk, argument: Any, axis: int, layer: str, batch: Iterable[int]
) -> tuple[Tensor, Fields]:
    """The labels along an axis that is summed over, and the fields that pass by it.

    Fields that vary along `batch` axes only pass; along others, such as those that a kernel moves
    over, they are fixed.
    """
    shape = run.shape(argument)
    labels = torch.zeros(shape[axis], dtype=torch.int64)
    passed: list[Field] = []
    for made in run.of(argument):
        if axis in made.axes:
            others = [a for a in range(len(shape)) if a != axis]
            for left in run.labels.collapse(made, others, f"is mixed by {layer}"):
                if labels.any():
                    run.labels.merge(labels, vector(left, axis))
                labels = torch.where(labels > 0, labels, vector(left, axis))
        elif set(made.axes) <= set(batch):
            passed.append(made)
        else:
            run.freeze((made,), f"is mixed over space by {layer}")
    return labels, tuple(passed)


def _vector_of(run: Walk, weight: Any, axis: int) -> Tensor:
    made = along(run.of(weight), axis)
    size = run.shape(weight)[axis]
    return vector(made, axis) if made else torch.zeros(size, dtype=torch.int64)


def _only_along(run: Walk, weight: Any, axes: Sequence[int]) -> None:
    """Of a kernel's labels only those along its channel axes can be removed."""
    kept = []
    for made in run.of(weight):
        if len(made.axes) == 1 and made.axes[0] in axes:
            kept.append(made)
        elif set(made.axes) & set(axes):
            mine = [a for a in made.axes if a in axes][:1]
            rest = [a for a in made.axes if a not in mine]
            kept += run.labels.collapse(made, rest, "is a place in a kernel")
        else:
            run.freeze((made,), "is a place in a kernel")
    run.fields[weight] = tuple(kept)


def _read(
    run: Walk, node: Node, source: Any, axis: int, labels: Tensor, weight: Any, weight_axis: int
) -> None:
    if not labels.any():
        return
    stored = isinstance(weight, Node) and weight.op == "get_attr"
    path = str(weight.target) if stored else None
    run.labels.reads.append(Read(node.name, source.name, axis, labels, path, weight_axis))


RULES: dict[str, Rule] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul mm bmm addmm baddbmm": _matmul,
    "scaled_dot_product_attention": _attention,
}
"""By the names of ATen operators."""
