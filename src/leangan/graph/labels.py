"""Labels on every axis of every stored tensor, followed through the graph.

Each index of each axis of a stored tensor gets a label, a whole number of its own. The graph is
walked once: operators that move elements are run on the labels themselves, so that no rule has to
be written for them; elementwise operators say that the labels which meet are one; a convolution
says so of its input's labels and those of its kernel's input axis, and puts out the labels of the
output axis. What remains are classes of labels: slices that must be removed together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """Labels of a value's elements along some of its axes."""

    labels: Tensor
    """int64, the shape of the value (expanded where it does not vary); 0 where there is none."""
    axes: tuple[int, ...]
    """Along which axes the labels vary."""


Fields = tuple[Field, ...]


@dataclass(frozen=True)
class Read:
    """An operator that sums over an axis with labels."""

    node: str
    source: str
    axis: int
    labels: Tensor
    """Per index of that axis."""
    weight: str | None
    weight_axis: int


@dataclass
class Labels:
    """All labels of a network, and what was learned of them so far."""

    count: int = 1
    """Labels handed out so far; 0 stands for none."""
    merged: list[Tensor] = field(default_factory=list)
    """Each (2, n): labels that are one."""
    frozen: dict[str, list[Tensor]] = field(default_factory=dict)
    """Per reason in words the labels that cannot be removed."""
    stored: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Per path and axis of a stored tensor the labels of its indices."""
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    computed: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """Weights that are computed: path of the stored tensor, labels of input and output axis."""

    def fresh(self, count: int) -> Tensor:
        """Labels that nothing has yet."""
        first = self.count
        self.count += count
        return torch.arange(first, self.count)

    def merge(self, a: Tensor, b: Tensor) -> None:
        """The labels at the same places are one; where one side has none, the other is fixed."""
        a, b = torch.broadcast_tensors(a, b)
        a, b = _distinct(a, b)
        both = (a > 0) & (b > 0)
        different = both & (a != b)
        if different.any():
            self.merged.append(torch.stack([a[different], b[different]]))
        self.freeze(torch.maximum(a, b)[~both], "meets values that cannot be cut")

    def freeze(self, labels: Tensor, reason: str) -> None:
        """These can never be removed."""
        labels = labels[labels > 0].unique()
        if labels.numel():
            self.frozen.setdefault(reason, []).append(labels)

    def make(self, labels: Tensor, reason: str = "is used alone") -> Fields:
        """A field in its plainest form; nothing where no label is left that could be removed."""
        axes = []
        for axis, size in enumerate(labels.shape):
            if size <= 1 or labels.stride(axis) == 0:
                continue
            first = labels.narrow(axis, 0, 1)
            if bool((labels != first).any()):
                axes.append(axis)
            else:
                labels = first.expand(labels.shape)
        if not axes:
            if labels.numel():
                self.freeze(labels.flatten()[:1], reason)
            return ()
        return (Field(labels, tuple(axes)),)

    def collapse(self, made: Field, axes: Iterable[int], reason: str) -> Fields:
        """What is left of a field when it must not vary along `axes`."""
        first = made.labels
        axes = [a for a in axes if a in made.axes]
        if not axes:
            return (made,)
        if len(axes) == len(made.axes):
            self.freeze(made.labels.unique(), reason)
            return ()
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        self.merge(made.labels, first.expand(made.labels.shape))
        return self.make(first.expand(made.labels.shape), reason)

    def meet(
        self, a: tuple[Fields, Sequence[int]], b: tuple[Fields, Sequence[int]], reason: str
    ) -> Fields:
        """What an elementwise operator on two values of these fields and shapes puts out."""
        shape = torch.broadcast_shapes(tuple(a[1]), tuple(b[1]))
        left, right = (_aligned(fields, shape) for fields, _ in (a, b))
        found: list[Field] = []
        used: set[int] = set()
        for one in left:
            matches = [g for g in right if set(g.axes) & set(one.axes)]
            for other in matches:
                self.merge(one.labels, other.labels)
                used.add(id(other))
            if matches:
                found.append(min([one, *matches], key=lambda f: len(f.axes)))
            else:
                found.extend(self._beside(one, b[1], len(shape), reason))
        for other in right:
            if id(other) not in used:
                found.extend(self._beside(other, a[1], len(shape), reason))
        return tuple(found)

    def _beside(self, made: Field, shape: Sequence[int], rank: int, reason: str) -> Fields:
        """A field beside a value of `shape` that has no labels there."""
        lead = rank - len(shape)
        full = [a for a in made.axes if a >= lead and shape[a - lead] > 1]
        return self.collapse(made, full, reason)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Per label the number of its class, and per class whether it can never be removed."""
        pairs = torch.cat(self.merged, dim=1).numpy() if self.merged else np.zeros((2, 0), np.int64)
        ones = np.ones(pairs.shape[1], np.int8)
        graph = coo_matrix((ones, (pairs[0], pairs[1])), shape=(self.count, self.count))
        number, class_of = connected_components(graph, directed=False)
        fixed = np.zeros(number, bool)
        fixed[class_of[0]] = True
        for labels in self.frozen.values():
            for some in labels:
                fixed[class_of[some.numpy()]] = True
        return class_of, fixed


def _distinct(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both without axes along which neither varies, flat."""
    for axis in range(a.dim()):
        if a.stride(axis) == 0 and b.stride(axis) == 0:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
    return a.reshape(-1), b.reshape(-1)


def _aligned(fields: Fields, shape: Sequence[int]) -> list[Field]:
    """The fields of a value that is broadcast to `shape`."""
    return [
        Field(
            made.labels.expand(tuple(shape)),
            tuple(a + len(shape) - made.labels.dim() for a in made.axes),
        )
        for made in fields
    ]


def along(fields: Fields, axis: int) -> Field | None:
    """The field that varies along `axis`, None when there is none."""
    return next((f for f in fields if axis in f.axes), None)


def vector(made: Field, axis: int) -> Tensor:
    """The labels along `axis`, at the first place of every other."""
    place: list[Any] = [0] * made.labels.dim()
    place[axis] = slice(None)
    return made.labels[tuple(place)]


def spread(labels: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """A vector of labels along `axis` of a value of `shape`."""
    view = [1] * len(shape)
    view[axis] = -1
    return labels.reshape(view).expand(tuple(shape))
