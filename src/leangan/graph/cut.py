"""Cut removed channels out of a graph: its stored tensors, and the sizes written in its code."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node

from leangan.errors import LeanganError
from leangan.graph.labels import Fields
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import tensor_of
from leangan.graph.walk import Walk

Kept = tuple[Tensor | None, ...]
"""Per axis the indices that are left, None where all are."""


def cut(run: Walk, gone: Tensor) -> dict[str, Kept]:
    """Cut the graph of a walk in place.

    Args:
        run: its module is changed.
        gone: bool, per label whether what bears it is removed.

    Returns:
        Per name of a node that lost something what is left of its axes.
    """
    kept: dict[Node, Any] = {}
    for node, found in run.fields.items():
        if isinstance(found, list):
            values = run.values[node]
            kept[node] = [
                _left(fields, value.shape, gone, node) if isinstance(value, Tensor) else ()
                for fields, value in zip(found, values, strict=True)
            ]
        elif isinstance(run.values[node], Tensor):
            kept[node] = _left(found, run.values[node].shape, gone, node)
    for node in list(run.module.graph.nodes):
        if node.op == "call_function":
            _Literals(run, kept, node).rewrite()
    _slice_stored(run, kept)
    run.module.recompile()
    return {
        node.name: axes
        for node, axes in kept.items()
        if isinstance(axes, tuple) and any(a is not None for a in axes)
    }


def _left(fields: Fields, shape: Sequence[int], gone: Tensor, node: Node) -> Kept:
    left: list[Tensor | None] = [None] * len(shape)
    for made in fields:
        small = made.labels
        for axis in range(small.dim()):
            if axis not in made.axes:
                small = small.narrow(axis, 0, 1)
        mask = gone[small]
        if not mask.any():
            continue
        straight = [a for a in made.axes if _straight(mask, a)]
        if not straight:
            raise LeanganError(
                f"What is left of {node.name} would not be rectangular. Please report this."
            )
        axis = straight[0]
        rest = (~mask.movedim(axis, 0).reshape(mask.shape[axis], -1)[:, 0]).nonzero().flatten()
        if not len(rest):
            raise LeanganError(f"Nothing would be left of {node.name}: keep more channels.")
        before = left[axis]
        if before is not None:
            rest = rest[torch.isin(rest, before)]
        left[axis] = rest
    return tuple(left)


def _straight(mask: Tensor, axis: int) -> bool:
    """Whether each row along `axis` goes or stays as a whole."""
    rows = mask.movedim(axis, 0).reshape(mask.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())


def _slice_stored(run: Walk, kept: Mapping[Node, Kept]) -> None:
    done: dict[tuple[Any, ...], Tensor] = {}  # a tensor under two names stays one
    paths: set[str] = set()
    stored = sorted(run.module.graph.find_nodes(op="get_attr"), key=lambda n: not n.users)
    for node in stored:
        path, tensor = str(node.target), tensor_of(run.module, node)
        if tensor is None or path in paths:
            continue
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        cut_here = any(a is not None for a in kept.get(node, ()))
        # The export reads a tied tensor under one of its names; the others are cut with it.
        if not cut_here and (node.users or key not in done):
            continue
        paths.add(path)
        if key not in done:
            value = tensor.detach()
            for axis, places in enumerate(kept[node]):
                if places is not None:
                    value = value.index_select(axis, places)
            learned = isinstance(tensor, nn.Parameter)
            done[key] = nn.Parameter(value, tensor.requires_grad) if learned else value
        owner, _, leaf = path.rpartition(".")
        holder = run.module.get_submodule(owner)
        if isinstance(tensor, nn.Parameter):
            setattr(holder, leaf, done[key])
        else:
            holder.register_buffer(leaf, done[key])


class _Literals:
    """The numbers in one node's arguments that speak of channels."""

    def __init__(self, run: Walk, kept: Mapping[Node, Any], node: Node) -> None:
        self.run, self.kept, self.node = run, kept, node

    def rewrite(self) -> None:
        """Change them to what is left."""
        node = self.node
        if is_call(node, aten.view, aten._unsafe_view):
            node.target = aten.reshape.default  # what is left may have other strides
        if is_call(node, aten.reshape, aten.expand):
            self._set(1, self._sizes(node.args[1]))
        elif is_call(node, aten.repeat):
            self._repeat()
        elif is_call(node, aten.full, aten.zeros, aten.ones, aten.rand, aten.randn, aten.empty):
            self._set(0, self._sizes(node.args[0]))
        elif is_call(node, aten.unflatten):
            raise LeanganError(f"{node.name} cannot be cut. Please report this.")
        elif is_call(node, aten.slice):
            self._slice()
        elif is_call(node, aten.select):
            self._select()
        elif is_call(node, aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split):
            self._split()
        elif is_call(node, aten.layer_norm, aten.native_layer_norm, aten.rms_norm):
            named: Any = node.args[1]
            after = self._shape(node)
            self._set(1, after[len(after) - len(named) :])
        elif is_call(node, aten.group_norm):
            self._group_norm()
        elif is_call(node, aten.scaled_dot_product_attention):
            self._scale()
        elif read_convolution(node):
            self._groups()

    def _lost(self, of: Any) -> Kept:
        found = self.kept.get(of, ()) if isinstance(of, Node) else ()
        if isinstance(found, list):
            found = found[0] if found else ()
        return found

    def _shape(self, of: Node) -> list[int]:
        """What the sizes are after the cut."""
        value = self.run.values[of]
        value = value[0] if isinstance(value, tuple | list) else value
        shape = [int(s) for s in value.shape]
        for axis, places in enumerate(self._lost(of)):
            if places is not None:
                shape[axis] = len(places)
        return shape

    def _set(self, place: int, value: Any) -> None:
        args = list(self.node.args)
        args[place] = value
        self.node.args = tuple(args)

    def _sizes(self, sizes: Any) -> list[Any]:
        """The sizes of a result: whole numbers are replaced, computed ones left to be inferred."""
        before = [int(s) for s in self.run.values[self.node].shape]
        after = self._shape(self.node)
        new = list(sizes)
        free = any(isinstance(s, int) and s == -1 for s in new)
        may_infer = is_call(self.node, aten.reshape)
        for axis, (old, now) in enumerate(zip(before, after, strict=True)):
            if old == now or (isinstance(new[axis], int) and new[axis] == -1):
                continue
            if isinstance(new[axis], int):
                new[axis] = now
            elif may_infer and not free:
                new[axis], free = -1, True
            else:
                new[axis] = self._scaled(new[axis], old, now)
        return new

    def _repeat(self) -> None:
        """Where one value was repeated, it is so less often."""
        source, times = self.node.args[0], list(cast(Any, self.node.args[1]))
        before = self.run.values[cast(Node, source)].shape
        lead = len(times) - len(before)
        after = self._shape(self.node)
        for axis, count in enumerate(times):
            if isinstance(count, int) and (axis < lead or before[axis - lead] == 1):
                times[axis] = after[axis]
        self._set(1, times)

    def _slice(self) -> None:
        named = arguments(self.node)
        rank = len(self.run.values[named["self"]].shape)
        places = (self._lost(named["self"]) or (None,) * rank)[named["dim"] % rank]
        if places is None:
            return
        size = int(self.run.values[named["self"]].shape[named["dim"] % rank])
        start, end, _ = slice(named["start"], named["end"]).indices(size)
        new = [int((places < edge).sum()) for edge in (start, max(start, end))]
        self.node.args = (named["self"], named["dim"], *new)
        self.node.kwargs = {}

    def _select(self) -> None:
        named = arguments(self.node)
        shape = self.run.values[named["self"]].shape
        axis = named["dim"] % len(shape)
        places = (self._lost(named["self"]) or (None,) * len(shape))[axis]
        if places is not None:
            self._set(2, int((places < named["index"] % int(shape[axis])).sum()))

    def _split(self) -> None:
        pieces = self.kept.get(self.node)
        if not isinstance(pieces, list) or not any(a is not None for p in pieces for a in p):
            return
        rank = len(self.run.values[self.node][0].shape)
        named = arguments(self.node)
        axis = int(named.get("dim", 0)) % rank
        sizes = []
        for piece, value in zip(pieces, self.run.values[self.node], strict=True):
            places = piece[axis] if piece else None
            sizes.append(int(value.shape[axis]) if places is None else len(places))
        self.node.target = aten.split_with_sizes.default
        self.node.args, self.node.kwargs = (self.node.args[0], sizes, axis), {}

    def _group_norm(self) -> None:
        shape = [int(s) for s in self.run.values[self.node].shape]
        if self.node.args[1] == shape[1]:
            self._set(1, self._shape(self.node)[1])

    def _scale(self) -> None:
        """The scale of attention stays what it was trained with."""
        query = self.node.args[0]
        assert isinstance(query, Node)
        lost = self._lost(query)
        if lost and lost[-1] is not None and arguments(self.node)["scale"] is None:
            width = int(self.run.values[query].shape[-1])
            self.node.kwargs = {**self.node.kwargs, "scale": 1 / math.sqrt(width)}

    def _groups(self) -> None:
        """A depthwise layer has as many groups as channels."""
        named = arguments(self.node)
        channels, left = (
            int(self.run.values[named["input"]].shape[1]),
            self._shape(named["input"])[1],
        )
        if channels in (1, left) or self.run.value(named["groups"]) != channels:
            return
        names = [a.name for a in cast(OpOverload, self.node.target)._schema.arguments]
        args = [named[n] for n in names]
        args[names.index("groups")] = (
            left
            if isinstance(named["groups"], int)
            else self._scaled(named["groups"], channels, left)
        )
        self.node.args, self.node.kwargs = tuple(args), {}

    def _scaled(self, size: Node, old: int, new: int) -> Node:
        """A computed size that counts channels times something: the same with fewer channels."""
        graph, common = self.run.module.graph, math.gcd(old, new)
        with graph.inserting_before(self.node):
            part = graph.call_function(operator.floordiv, (size, old // common))
            return graph.call_function(operator.mul, (part, new // common))
