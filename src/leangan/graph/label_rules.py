"""How labels pass each kind of operator."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.labels import Field, Fields, Read, along, spread, vector
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import tensor_of
from leangan.graph.walk import Rule, Walk


def rule_of(run: Walk, node: Node) -> Rule:
    """The rule of an operator; one that fixes all labels where none is known."""
    if node.target is operator.getitem:
        return _getitem
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _RULES:
        return _RULES[packet]
    if read_convolution(node):
        return _convolution
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return _elementwise
    return _unknown


def _unknown(run: Walk, node: Node) -> Any:
    for argument in node.all_input_nodes:
        found = run.fields.get(argument, ())
        for fields in found if isinstance(found, list) else [found]:
            run.freeze(fields, f"passes {node.target}, through which channels are not followed")
    value = run.values[node]
    return [()] * len(value) if isinstance(value, tuple | list) else ()


def _getitem(run: Walk, node: Node) -> Fields:
    source: Any = node.args[0]
    place: Any = node.args[1]
    found = run.fields.get(source, ())
    return found[place] if isinstance(found, list) else ()


def _elementwise(run: Walk, node: Node) -> Fields:
    return run.meet(node, node.all_input_nodes)


def _same(run: Walk, node: Node) -> Fields:
    return run.of(node.args[0])


# Operators that move elements are run on the labels themselves.


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
    axis = _axis(run, named["self"], named["dim"])
    step, start = run.value(named["step"]), named["start"]
    if step != 1 or isinstance(start, Node) or isinstance(named["end"], Node):
        _freeze_along(run, named["self"], axis, "is cut by a step or a size that is not fixed")
    return _move(run, node)


def _select(run: Walk, node: Node) -> Fields:
    axis, index = _axis(run, node.args[0], node.args[1]), run.value(node.args[2])
    for made in run.of(node.args[0]):
        if made.axes == (axis,):
            run.labels.freeze(vector(made, axis)[index].reshape(1), "is used alone")
    rest = tuple(f for f in run.of(node.args[0]) if f.axes != (axis,))
    return tuple(x for f in rest for x in run.labels.make(f.labels.select(axis, index)))


def _freeze_along(run: Walk, argument: Any, axis: int, reason: str) -> None:
    run.freeze(tuple(f for f in run.of(argument) if axis in f.axes), reason)


def _cat(run: Walk, node: Node) -> Fields:
    parts: Any = node.args[0]
    parts = [p for p in parts if run.shape(p) != (0,)]
    axis = _axis(run, parts[0], arguments(node).get("dim", 0))
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
    axis = _axis(run, node, arguments(node).get("dim", 0))
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
        return _unknown(run, node)
    indexed = [axis for axis, p in enumerate(places) if p is not None]
    found: list[Field] = []
    for made in run.of(table):
        if set(indexed) & set(made.axes):
            run.freeze((made,), "is looked up by an index")
        else:
            found += run.labels.make(aten.index.Tensor(made.labels.contiguous(), real))
    return tuple(found)


def _embedding(run: Walk, node: Node) -> Fields:
    _freeze_along(run, node.args[0], 0, "is looked up by an index")
    table = along(run.of(node.args[0]), 1)
    shape = run.shape(node)
    if table is None:
        return ()
    _role(run, node.args[0], 1, "out")
    return run.labels.make(spread(vector(table, 1), shape, len(shape) - 1))


# Operators that work along some axes and leave the others alone.


def _spatial(run: Walk, node: Node) -> Fields:
    """Pooling, resizing, padding, transforms: what varies along their axes is mixed there."""
    found: list[Field] = []
    before, after = run.shape(node.args[0]), run.shape(node)
    acted = _acted(run, node)
    for made in run.of(node.args[0]):
        for left in run.labels.collapse(made, acted, f"is mixed over space by {node.name}"):
            small = left.labels
            for axis in range(len(before)):
                if axis in acted:
                    small = small.narrow(axis, 0, 1)
            found += run.labels.make(small.expand(after))
    return tuple(found)


def _acted(run: Walk, node: Node) -> list[int]:
    named = arguments(node)
    rank = len(run.shape(node.args[0]))
    if is_call(node, aten.pad, aten.constant_pad_nd):
        pads = run.value(named["pad"])
        return [rank - 1 - i // 2 for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]
    dims = named.get("dim", named.get("dims"))
    if dims is not None:
        return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    return list(range(2, rank)) if rank > 2 else [rank - 1]


def _pad(run: Walk, node: Node) -> Fields:
    mode = arguments(node).get("mode", "constant")
    acted = _acted(run, node)
    if mode != "constant" or not any(set(acted) & set(f.axes) for f in run.of(node.args[0])):
        return _spatial(run, node)
    pads = run.value(arguments(node)["pad"])
    made = [torch.nn.functional.pad(f.labels, pads) for f in run.of(node.args[0])]
    return tuple(x for m in made for x in run.labels.make(m))


def _softmax(run: Walk, node: Node) -> Fields:
    """What is weighed against each other cannot be cut."""
    axis = _axis(run, node.args[0], node.args[1])
    found: list[Field] = []
    for made in run.of(node.args[0]):
        found += run.labels.collapse(made, [axis], f"is weighed against others in {node.name}")
    return tuple(found)


def _reduce(run: Walk, node: Node) -> Any:
    """Sums, means and alike over labelled axes are taken over what is left."""
    named = arguments(node)
    rank = len(run.shape(node.args[0]))
    dims = named.get("dim")
    dims = list(range(rank)) if dims is None or dims == [] else dims
    acted = [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    keep = bool(named.get("keepdim", False))
    found: list[Field] = []
    for made in run.of(node.args[0]):
        if set(made.axes) <= set(acted):
            continue
        for left in run.labels.collapse(made, acted, "is reduced"):
            small = left.labels
            for axis in sorted(acted, reverse=True):
                small = small.narrow(axis, 0, 1) if keep else small.select(axis, 0)
            found += run.labels.make(small)
    value = run.values[node]
    return [tuple(found)] * len(value) if isinstance(value, tuple | list) else tuple(found)


def _max(run: Walk, node: Node) -> Any:
    return _elementwise(run, node) if node.target is aten.max.other else _reduce(run, node)


def _glu(run: Walk, node: Node) -> Fields:
    axis = _axis(run, node.args[0], arguments(node)["dim"])
    shape = run.shape(node)
    halves: list[Fields] = []
    for start in (0, shape[axis]):
        halves.append(
            tuple(
                x
                for f in run.of(node.args[0])
                for x in run.labels.make(f.labels.narrow(axis, start, shape[axis]))
            )
        )
    reason = f"meets values that cannot be cut, in {node.name}"
    return run.labels.meet((halves[0], shape), (halves[1], shape), reason)


# Norms


def _prelu(run: Walk, node: Node) -> Fields:
    slopes = node.args[1]
    if run.shape(slopes) == (1,) or len(run.shape(slopes)) > 1:
        return _elementwise(run, node)
    return _with_vector(run, node, run.of(node.args[0]), run.shape(node), slopes, 1)


def _norm(run: Walk, node: Node) -> Any:
    """Batch and instance norm: each channel (axis 1) has its numbers."""
    named = arguments(node)
    shape = run.shape(node.args[0])
    fields = _of_channels(run, node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        fields = _with_vector(run, node, fields, shape, named.get(name), 1)
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _of_channels(run: Walk, node: Node) -> Fields:
    """The fields of a norm's input; what varies over space is mixed there."""
    space = range(2, len(run.shape(node.args[0])))
    return tuple(
        left
        for made in run.of(node.args[0])
        for left in run.labels.collapse(made, space, f"is mixed over space by {node.name}")
    )


def _with_vector(
    run: Walk, node: Node, fields: Fields, shape: Sequence[int], stored: Any, axis: int
) -> Fields:
    if not isinstance(stored, Node):
        return fields
    lined = tuple(
        x for f in run.of(stored) for x in run.labels.make(spread(vector(f, 0), shape, axis))
    )
    thin = [1] * len(shape)
    thin[axis] = run.shape(stored)[0]
    reason = f"meets values that cannot be cut, in {node.name}"
    return run.labels.meet((fields, shape), (lined, thin), reason)


def _layer_norm(run: Walk, node: Node) -> Any:
    named = arguments(node)
    inputs = [named["input"], *(named[k] for k in ("weight", "bias") if named.get(k) is not None)]
    fields = run.meet(node, inputs)
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _group_norm(run: Walk, node: Node) -> Any:
    named = arguments(node)
    groups = run.value(named.get("num_groups", named.get("group")))
    shape = run.shape(node.args[0])
    fields = _of_channels(run, node)
    for name in ("weight", "bias"):
        fields = _with_vector(run, node, fields, shape, named.get(name), 1)
    if shape[1] > groups:
        fields = tuple(x for f in fields for x in _alike(run, f, shape, groups))
    value = run.values[node]
    return [fields] + [()] * (len(value) - 1) if isinstance(value, tuple | list) else fields


def _alike(run: Walk, made: Field, shape: Sequence[int], groups: int) -> Fields:
    """All groups of axis 1 shrink alike: the i-th channels of all of them are one."""
    if 1 not in made.axes:
        return (made,)
    split = made.labels.reshape(shape[0], groups, -1, *shape[2:])
    run.labels.merge(split, split[:, :1].expand(split.shape))
    return (made,)


# Operators that sum over channels


def _convolution(run: Walk, node: Node) -> Fields:
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
        _role(run, conv.weight, inner, "in", into, out)
        _role(run, conv.weight, outer, "out")
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
        _role(run, conv.weight, inner, "in", into, out)
        _role(run, conv.weight, outer, "out")
    fields = [*run.labels.make(spread(out, shape, 1))] if shape[1] > 1 else []
    for made in passed:
        small = made.labels
        for axis in range(1, small.dim()):
            small = small.narrow(axis, 0, 1)
        fields += run.labels.make(small.expand(shape))
    return _with_vector(run, node, tuple(fields), shape, conv.bias, 1)


def _linear(run: Walk, node: Node) -> Fields:
    named = arguments(node)
    given, weight = named["input"], named["weight"]
    shape, last = run.shape(node), len(run.shape(node)) - 1
    x, passed = _summed(run, given, last, node.name, batch=range(last))
    into, out = _vector_of(run, weight, 1), _vector_of(run, weight, 0)
    run.labels.merge(x, into)
    _read(run, node, given, last, x, weight, 1)
    _role(run, weight, 1, "in", into, out)
    _role(run, weight, 0, "out")
    fields = [*run.labels.make(spread(out, shape, last))] if shape[last] > 1 else []
    for made in passed:
        fields += run.labels.make(made.labels.narrow(last, 0, 1).expand(shape))
    return _with_vector(run, node, tuple(fields), shape, named["bias"], last)


def _matmul(run: Walk, node: Node) -> Fields:
    first = 1 if is_call(node, aten.addmm, aten.baddbmm) else 0
    a, b = node.args[first], node.args[first + 1]
    if min(len(run.shape(a)), len(run.shape(b))) < 2:
        return _unknown(run, node)
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
    _role(run, a, rank_a - 1, "in")
    _role(run, a, rank_a - 2, "out")
    _role(run, b, rank_b - 2, "in")
    _role(run, b, rank_b - 1, "out")
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
        return _unknown(run, node)
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


def _role(
    run: Walk,
    weight: Any,
    axis: int,
    role: str,
    into: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    if not isinstance(weight, Node):
        return
    if weight.op == "get_attr":
        run.labels.roles.setdefault((str(weight.target), axis), role)
    elif into is not None and out is not None:
        path = _origin(run, weight)
        if path is not None:
            run.labels.computed.append((path, into, out))


def _origin(run: Walk, node: Node) -> str | None:
    """The largest stored tensor that a computed weight is made of."""
    seen, todo, best, most = {node}, [node], None, 0
    while todo:
        for source in todo.pop().all_input_nodes:
            tensor = tensor_of(run.module, source)
            if tensor is not None and tensor.dim() > 1 and tensor.numel() > most:
                best, most = str(source.target), tensor.numel()
            # A weight's own shape has as many elements; activations on the way do not matter.
            if source not in seen and math.prod(run.shape(source)) >= most:
                seen.add(source)
                todo.append(source)
    return best


def _axis(run: Walk, argument: Any, dim: Any) -> int:
    return int(dim) % max(1, len(run.shape(argument)))


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else s for a, s in enumerate(shape))


_RULES: dict[Any, Rule] = {}


def _register(rule: Rule, names: str) -> None:
    for name in names.split():
        if hasattr(aten, name):
            _RULES[getattr(aten, name)] = rule


_register(
    _move,
    "view reshape _unsafe_view permute transpose t squeeze unsqueeze flatten split "
    "split_with_sizes chunk unbind pixel_unshuffle channel_shuffle flip movedim "
    "unflatten narrow tensor_split numpy_T mT",
)
_register(_pixel_shuffle, "pixel_shuffle")
_register(_slice, "slice")
_register(_select, "select")
_register(_cat, "cat concat")
_register(_stack, "stack")
_register(_expand, "expand repeat")
_register(_einsum, "einsum")
_register(_create, "full zeros ones rand randn empty")
_register(_as_real, "view_as_real")
_register(_as_complex, "view_as_complex")
_register(_index, "index")
_register(_embedding, "embedding")
_register(_same, "clone contiguous alias detach _to_copy dropout to lift_fresh_copy")
_register(
    _elementwise,
    "full_like zeros_like ones_like rand_like randn_like complex real imag copy",
)
_register(_prelu, "prelu _prelu_kernel")
_register(_pad, "pad constant_pad_nd")
_register(
    _spatial,
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d avg_pool1d avg_pool2d "
    "max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d "
    "_adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d "
    "upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d upsample_linear1d "
    "grid_sampler grid_sampler_2d roll _fft_r2c _fft_c2r _fft_c2c fft_rfft fft_irfft fft_rfft2 "
    "fft_irfft2 fft_rfftn fft_irfftn fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn",
)
_register(_softmax, "softmax _softmax log_softmax _log_softmax cumsum sort")
_register(_reduce, "mean sum amax amin var std linalg_vector_norm norm var_mean logsumexp")
_register(_max, "max")
_register(_glu, "glu")
_register(
    _norm,
    "batch_norm native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit "
    "instance_norm",
)
_register(_layer_norm, "layer_norm native_layer_norm rms_norm _fused_rms_norm")
_register(_group_norm, "group_norm native_group_norm")
_register(_linear, "linear")
_register(_matmul, "matmul mm bmm addmm baddbmm")
_register(_attention, "scaled_dot_product_attention")
