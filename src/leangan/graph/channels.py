"""Which channels must go together, found by running the network on labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.cut import cut
from leangan.graph.labels import Labels
from leangan.graph.rewrite import layer_name
from leangan.graph.walk import Walk, walk

Positions = tuple[tuple[int, ...], ...]
"""Per channel of a group the indices along an axis that belong to it, in ascending order."""


@dataclass(frozen=True)
class Member:
    """One axis of one stored tensor, and where on it the channels of a group stand."""

    path: str
    """The tensor's dotted path in `generator.module()`."""
    axis: int
    positions: Positions
    role: Literal["out", "in", "vector"]
    """"out": the axis whose slices compute the channels (a kernel's output axis); "in": the axis
    that is summed over (the next kernel's input axis); "vector": one value per channel (a bias, a
    norm's scale, a PReLU's slopes, a constant input)."""


@dataclass(frozen=True)
class Reader:
    """An operator that sums over a group's channels: where its feature maps are used."""

    node: str
    """Name of the convolution, linear layer or matrix product in the graph."""
    source: str
    """Name of the node whose value it reads: the feature maps, after norm and activation."""
    axis: int
    """The channel axis of that value."""
    positions: Positions
    """Where on that axis the channels stand."""
    weight: str | None
    """Path of the weight, None when it is computed."""
    weight_axis: int
    """The input axis of the weight; positions on it are those of `positions`, unless the operator
    has groups."""


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one, each from all members at once."""

    name: str
    """The layer that computes them first, unique."""
    width: int
    members: tuple[Member, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Fixed:
    """A weight none of whose channels can be removed."""

    path: str
    params: int
    reason: str
    """In words: "reaches the output", "is added to the input", ..."""


@dataclass(frozen=True)
class Coupling:
    """All that can be removed from a generator, and all that cannot."""

    groups: tuple[Group, ...]
    """In the order in which the network computes them."""
    fixed: tuple[Fixed, ...]


@dataclass(frozen=True)
class Sliced:
    """A graph without the removed channels, node for node that of the original."""

    module: GraphModule
    kept: Mapping[str, tuple[Tensor | None, ...]]
    """Per node (by name) with a tensor value that lost something: for each axis the indices that
    are left of the original's, None where all are."""


def couple(generator: Generator) -> Coupling:
    """Find all groups of channels that can be removed together.

    The network is run once on labels instead of numbers (graph/labels.py), so that any code which
    moves channels about is followed: views with literal sizes, shuffles, concatenations, splits.

    Args:
        generator: float; it is not changed.

    Returns:
        Groups of at least two channels; each can lose any channels but all of them. Norms over
        channels, and other means over them, are then taken over the channels that are left.
    """
    run = walk(generator)
    classes = _Classes(run)
    groups = classes.groups()
    return Coupling(groups, classes.fixed(groups))


def by_reason(fixed: Iterable[Fixed]) -> dict[str, list[Fixed]]:
    """What cannot be pruned, gathered by the reason."""
    found: dict[str, list[Fixed]] = {}
    for one in fixed:
        found.setdefault(one.reason, []).append(one)
    return found


def slice_module(
    generator: Generator, coupling: Coupling, keep: Mapping[str, Sequence[int]]
) -> Sliced:
    """An edited copy of the graph with only the kept channels, before it is exported again.

    Args:
        generator: is left as it is.
        coupling: of this generator.
        keep: per group name the kept channels, ascending, at least one. Groups that are not named
            stay whole.

    Raises:
        LeanganError: a group or a channel that there is not, or nothing would be left of one.
    """
    removed = _removed(coupling, keep)
    run = walk(generator)
    gone = torch.zeros(run.labels.count, dtype=torch.bool)
    class_of, _ = _Classes(run).labels.classes()
    for (path, axis), places in removed.items():
        labels = run.labels.stored[path, axis].numpy()
        gone[torch.from_numpy(np.isin(class_of, class_of[labels[places]]))] = True
    return Sliced(run.module, cut(run, gone))


def _removed(
    coupling: Coupling, keep: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int], list[int]]:
    """Per path and axis the places that go."""
    groups = {g.name: g for g in coupling.groups}
    removed: dict[tuple[str, int], list[int]] = {}
    for name, channels in keep.items():
        if name not in groups:
            raise LeanganError(f"There is no group of channels {name!r}.")
        group, kept = groups[name], set(channels)
        if not kept or not kept <= set(range(group.width)):
            raise LeanganError(
                f"Of group {name!r} at least one of the channels 0 to {group.width - 1} must be "
                f"kept, not {sorted(kept)[:8]}."
            )
        for member in group.members:
            places = removed.setdefault((member.path, member.axis), [])
            for channel in range(group.width):
                if channel not in kept:
                    places.extend(member.positions[channel])
    return removed


class _Classes:
    """The classes of a walk's labels, made such that what is left is always rectangular."""

    def __init__(self, run: Walk) -> None:
        self.run = run
        self.labels: Labels = run.labels
        while self._straighten():
            pass
        self.class_of, self.class_fixed = self.labels.classes()

    def _straighten(self) -> bool:
        """Merge where a class is no whole row of a value: of heads, or of the parts of a view.

        A value that a reshape made of one labelled axis has labels along several; such an axis
        may lose a row only as a whole. The axis that leaves the most classes keeps its own.
        """
        class_of, fixed = self.labels.classes()
        changed = False
        for found in self.run.fields.values():
            for fields in found if isinstance(found, list) else [found]:
                for made in fields:
                    if len(made.axes) < 2:
                        continue
                    seen = class_of[made.labels.numpy()]
                    seen = np.where(fixed[seen], -1, seen)
                    changed |= self._straighten_one(made.labels, seen, made.axes)
        return changed

    def _straighten_one(self, labels: Tensor, seen: np.ndarray, axes: tuple[int, ...]) -> bool:
        rows = {a: [np.unique(r) for r in np.moveaxis(seen, a, 0)] for a in axes}
        # Straight already: each row along some axis is of one class, or classes vary nowhere else.
        if any(all(len(r) == 1 for r in rows[a]) for a in axes):
            return False
        # What comes again along an axis (the pixels of a shuffle) counts once.
        alike = {a: {tuple(r) for r in rows[a] if -1 not in r} for a in axes}
        best = max(axes, key=lambda a: (len(alike[a]), a))
        for row, places in zip(labels.movedim(best, 0), np.moveaxis(seen, best, 0), strict=True):
            if (places == -1).any():
                self.labels.freeze(row.unique(), "shares a row with what is fixed")
            else:
                self.labels.merge(row, row.flatten()[0].expand(row.shape))
        return True

    def groups(self) -> tuple[Group, ...]:
        """Classes that stand on the same axes, together."""
        where: dict[int, dict[tuple[str, int], list[int]]] = {}
        for (path, axis), labels in self.labels.stored.items():
            for place, number in enumerate(self.class_of[labels.numpy()].tolist()):
                if not self.class_fixed[number]:
                    where.setdefault(number, {}).setdefault((path, axis), []).append(place)
        alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for number, places in where.items():
            alike.setdefault(tuple(places), []).append(number)
        layers = _layers(self.run)
        names: dict[str, int] = {}
        found = []
        for axes, numbers in alike.items():
            if len(numbers) < 2:
                continue
            members = tuple(
                Member(
                    path,
                    axis,
                    tuple(tuple(where[n][path, axis]) for n in numbers),
                    self._role(path, axis, numbers),
                )
                for path, axis in axes
            )
            found.append((members, self._readers(numbers), len(numbers)))
        uses = _first_uses(self.run)

        def first(members: tuple[Member, ...]) -> Member:
            made = [m for m in members if m.role == "out"] or list(members)
            return min(made, key=lambda m: uses.get(m.path, 0))

        result = []
        for members, readers, width in sorted(found, key=lambda f: uses.get(first(f[0]).path, 0)):
            path = first(members).path
            name = layers.get(path, path)
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name = f"{name}#{names[name]}"
            result.append(Group(name, width, members, readers))
        return tuple(result)

    def _role(self, path: str, axis: int, numbers: list[int]) -> Literal["out", "in", "vector"]:
        role = self.labels.roles.get((path, axis))
        if role is None:
            for computed, into, out in self.labels.computed:
                if computed == path:
                    if np.isin(numbers, self.class_of[out.numpy()]).any():
                        role = "out"
                    elif np.isin(numbers, self.class_of[into.numpy()]).any():
                        role = "in"
        return cast(Literal["out", "in", "vector"], role or "vector")

    def _readers(self, numbers: list[int]) -> tuple[Reader, ...]:
        place = {number: channel for channel, number in enumerate(numbers)}
        found = []
        for read in self.labels.reads:
            positions: list[list[int]] = [[] for _ in numbers]
            for index, number in enumerate(self.class_of[read.labels.numpy()].tolist()):
                if number in place and read.labels[index] > 0:
                    positions[place[number]].append(index)
            if any(positions):
                found.append(
                    Reader(
                        read.node,
                        read.source,
                        read.axis,
                        tuple(map(tuple, positions)),
                        read.weight,
                        read.weight_axis,
                    )
                )
        return tuple(found)

    def fixed(self, groups: Sequence[Group]) -> tuple[Fixed, ...]:
        """Stored tensors none of whose axes can lose anything, with the first reason known."""
        named = dict(self.run.module.named_parameters(remove_duplicate=False))
        coupled = {id(named.get(m.path)) for g in groups for m in g.members}
        # By identity: of a tied tensor's names the members bear one.
        alone = {path for path, tensor in named.items() if id(tensor) in coupled}
        reasons: dict[int, str] = {}
        for reason, some in self.labels.frozen.items():
            for number in self.class_of[torch.cat(some).numpy()].tolist():
                reasons.setdefault(number, reason)
        state = {str(n.target) for n in self.run.module.graph.find_nodes(op="get_attr")}
        params = dict(self.run.module.named_parameters())
        used = {str(n.target) for n in self.run.module.graph.find_nodes(op="get_attr") if n.users}
        found = []
        for path in sorted((state & set(params)) - alone, key=list(params).index):
            why = [
                reasons[n]
                for (owner, _), labels in self.labels.stored.items()
                if owner == path
                for n in self.class_of[labels.numpy()].tolist()
                if n in reasons
            ]
            told = next((w for w in why if w != "is a place in a kernel"), None)
            if told is None:
                told = "has a single channel" if path in used else "is never used"
            found.append(Fixed(path, params[path].numel(), told))
        return tuple(found)


def _layers(run: Walk) -> dict[str, str]:
    """Per path of a weight the name that people know its layer by."""
    found: dict[str, str] = {}
    for node in run.module.graph.nodes:
        if node.op == "call_function" and len(node.args) > 1:
            weight = node.args[1]
            if getattr(weight, "op", "") == "get_attr":
                found.setdefault(str(weight.target), layer_name(node))
    return found


def _first_uses(run: Walk) -> dict[str, int]:
    """Per path the place in the graph where it is read first."""
    order = {node: i for i, node in enumerate(run.module.graph.nodes)}
    found: dict[str, int] = {}
    for node in run.module.graph.find_nodes(op="get_attr"):
        place = min((order[u] for u in node.users), default=0)
        found[str(node.target)] = min(place, found.get(str(node.target), place))
    return found
