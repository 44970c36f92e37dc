"""Statistics of node values over samples, streamed: no map is kept after it was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leangan.graph.replay import first_tensor

POSITIONS = 4096
"""Rows drawn of each value: more tell little new, since neighbours are much alike."""


class Observer(Protocol):
    """Takes note of a value, once per run."""

    def see(self, value: Tensor) -> None:
        """Look at one value; it must not be changed or kept."""
        ...


class GradientObserver(Protocol):
    """Takes note of what an operator reads, with the gradient there."""

    def see(self, value: Tensor, gradient: Tensor) -> None:
        """Look at both, of one shape; they must not be changed or kept."""
        ...


def observe(
    module: GraphModule,
    samples: Sequence[tuple[Tensor, ...]],
    observers: Mapping[str, Sequence[Observer]],
) -> None:
    """Run `module` on each sample and show the values of the named nodes to their observers."""
    watch = _Watch(module, observers)
    with torch.no_grad():
        for inputs in samples:
            watch.run(*inputs)


def observe_gradients(
    module: GraphModule,
    samples: Sequence[tuple[Tensor, ...]],
    observers: Mapping[tuple[str, str], Sequence[GradientObserver]],
    *,
    seed: int = 0,
) -> None:
    """Show what operators read, and how the output hangs on it.

    The loss is the (first) output y projected on a random direction v of standard normal numbers,
    divided by the root of the number of elements of y. Over v, the mean of the squared change of
    this loss is the mean squared change of the output (Hutchinson), so that squares of first-order
    terms are mean squared errors of the output.

    Args:
        module: its parameters' gradients are left alone.
        samples: inputs.
        observers: by (operator, source), the names of a node and of that one of its arguments
            whose gradient is wanted. Only what flows through this operator counts, not what its
            source does elsewhere.
        seed: of the directions.
    """
    rng = torch.Generator().manual_seed(seed)
    watch = _Gradients(module, {operator for operator, _ in observers})
    learned = [p for p in module.parameters() if p.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        for inputs in samples:
            watch.read.clear()
            with torch.enable_grad():
                y = first_tensor(watch.run(*inputs))
                direction = torch.randn(y.shape, generator=rng, dtype=y.dtype)
                wanted = {key: watch.read[key] for key in observers}
                gradients = torch.autograd.grad(
                    y, list(wanted.values()), direction / y.numel() ** 0.5, allow_unused=True
                )
            for (key, value), gradient in zip(wanted.items(), gradients, strict=True):
                flat = torch.zeros_like(value) if gradient is None else gradient
                for observer in observers[key]:
                    observer.see(value.detach(), flat)
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


class Moments:
    """Mean and second moments along one axis, over all samples and positions.

    Args:
        axis: of the values; all others are positions.
        seed: of the choice of positions.
        limit: the most positions to take of one value.
    """

    def __init__(self, axis: int, *, seed: int = 0, limit: int = POSITIONS) -> None:
        self._axis, self._limit = axis, limit
        self._rng = torch.Generator().manual_seed(seed)
        self._sum = self._gram = torch.zeros(())
        self.count = 0

    def see(self, value: Tensor) -> None:
        """Add one value."""
        rows = pick_rows(value, self._axis, self._limit, self._rng).double()
        self._sum = self._sum + rows.sum(0)
        self._gram = self._gram + rows.T @ rows
        self.count += len(rows)

    @property
    def mean(self) -> Tensor:
        """float64 (channels,)."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self) -> Tensor:
        """float64 (channels, channels)."""
        mean = self.mean
        return self._gram / max(self.count, 1) - torch.outer(mean, mean)


class Reach:
    """How far each channel of a value goes, over all samples, and how far it usually does.

    Args:
        axis: of the channels; all others are positions.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = 0
        self._variance = torch.zeros(())
        self._alone: list[Tensor] = []
        self.low = torch.tensor(torch.inf)
        """float32 (channels,): the smallest value."""
        self.high = torch.tensor(-torch.inf)
        """float32 (channels,): the largest value."""

    def see(self, value: Tensor) -> None:
        """Add one value."""
        rows = value.detach().movedim(self._axis, 0).flatten(1)
        self.low = torch.minimum(self.low, rows.amin(1))
        self.high = torch.maximum(self.high, rows.amax(1))
        if rows.shape[1] == 1:
            self._alone.append(rows[:, 0])
        self._variance = self._variance + rows.var(1, correction=0)
        self._count += 1

    @property
    def deviation(self) -> Tensor:
        """float32 (channels,): the standard deviation within a value, in the mean over all.

        Over all values where each has one position, as the outputs of linear layers do.
        """
        if self._alone and len(self._alone) == self._count:
            return torch.stack(self._alone).std(0, correction=0)
        return (self._variance / max(self._count, 1)).sqrt()


class GradientMoments:
    """The sum over positions of the outer products of the gradients, as a mean over samples."""

    def __init__(self, axis: int, *, seed: int = 0, limit: int = POSITIONS) -> None:
        self._axis, self._limit = axis, limit
        self._rng = torch.Generator().manual_seed(seed)
        self._gram = torch.zeros(())
        self._runs = 0

    def see(self, value: Tensor, gradient: Tensor) -> None:
        """Add one gradient."""
        rows = pick_rows(gradient, self._axis, self._limit, self._rng).double()
        positions = gradient.numel() // gradient.shape[self._axis]
        self._gram = self._gram + rows.T @ rows * (positions / len(rows))
        self._runs += 1

    @property
    def gram(self) -> Tensor:
        """float64 (channels, channels)."""
        return self._gram / max(self._runs, 1)


def pick_rows(value: Tensor, axis: int, limit: int, rng: torch.Generator) -> Tensor:
    """At most `limit` randomly chosen positions of a value, as (positions, size of the axis)."""
    rows = value.detach().movedim(axis, -1).reshape(-1, value.shape[axis])
    if len(rows) > limit:
        rows = rows[torch.randperm(len(rows), generator=rng)[:limit]]
    return rows


class _Watch(Interpreter):
    def __init__(self, module: GraphModule, observers: Mapping[str, Sequence[Observer]]) -> None:
        super().__init__(module)
        self.observers = observers

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for observer in self.observers.get(n.name, ()):
            observer.see(value)
        return value


class _Gradients(Interpreter):
    """Gives each watched operator its own leaf of every value that it reads."""

    def __init__(self, module: GraphModule, operators: set[str]) -> None:
        super().__init__(module)
        self.operators = operators
        self.read: dict[tuple[str, str], Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n.name not in self.operators:
            return super().run_node(n)
        own: dict[Node, Tensor] = {}
        for source in n.all_input_nodes:
            value = self.env[source]
            if isinstance(value, Tensor) and value.is_floating_point():
                alone = value.view_as(value) if value.requires_grad else value.detach()
                own[source] = alone if alone.requires_grad else alone.requires_grad_()
                self.read[n.name, source.name] = own[source]
        kept = {source: self.env[source] for source in own}
        self.env.update(own)
        try:
            return super().run_node(n)
        finally:
            self.env.update(kept)
