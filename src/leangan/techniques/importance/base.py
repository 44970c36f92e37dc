"""What a criterion is, and what it may look at."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.generator import Generator
from leangan.graph.channels import Coupling, Group, Positions, Reader
from leangan.graph.observe import Moments, Observer, observe

T = TypeVar("T", bound=Observer)

Scores = dict[str, Tensor]
"""Per group name float64 (width,): the higher, the more worth keeping."""


@dataclass(frozen=True)
class Context:
    """What channels are judged by."""

    generator: Generator
    module: GraphModule
    """`generator.module()`."""
    coupling: Coupling
    samples: Sequence[tuple[Tensor, ...]] = ()
    """Calibration inputs; may be empty for criteria that need none."""
    seed: int = 0

    def tensor(self, path: str) -> Tensor:
        """The stored tensor of that dotted path, as float64."""
        stored: Tensor = operator.attrgetter(path)(self.module)
        return stored.detach().double()

    @functools.cached_property
    def moments(self) -> Mapping[tuple[str, int], Moments]:
        """Of all that readers read, by (source, axis)."""
        return watch_sources(self, lambda axis: Moments(axis, seed=self.seed))


@dataclass(frozen=True)
class Criterion:
    """One way to tell which channels are worth keeping."""

    name: str
    summary: str
    """One line, with its paper."""
    needs_data: bool
    score: Callable[[Context], Scores]


def watch_sources(context: Context, make: Callable[[int], T]) -> dict[tuple[str, int], T]:
    """One observer per feature map that a group is read from, by (source, axis), after a run."""
    made: dict[tuple[str, int], T] = {}
    by_node: dict[str, list[T]] = {}
    for source, axis in _sources(context.coupling.groups):
        made[source, axis] = make(axis)
        by_node.setdefault(source, []).append(made[source, axis])
    observe(context.module, context.samples, by_node)
    return made


def places_of(positions: Positions, size: int) -> Tensor:
    """(width, indices per channel): shorter rows are filled up with `size`, one past the end."""
    most = max(map(len, positions))
    return torch.tensor([[*row, *[size] * (most - len(row))] for row in positions])


def per_channel(values: Tensor, positions: Positions) -> Tensor:
    """(..., width, indices per channel) of what stands along the last axis, 0 where there is none.

    Args:
        values: (..., size of the axis).
        positions: of a group's channels on that axis.
    """
    places = places_of(positions, values.shape[-1])
    return torch.nn.functional.pad(values, (0, 1))[..., places]


def mean_over_sources(group: Group, values: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """A group's (width,) out of values along the axes that it is read from."""
    found = {(r.source, r.axis): r for r in group.readers}
    parts = [per_channel(values[key], r.positions).mean(-1) for key, r in found.items()]
    return torch.stack(parts).mean(0) if parts else torch.zeros(group.width, dtype=torch.float64)


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that those of different groups can be compared."""
    mean = scores.mean()
    return scores / mean if float(mean) > 0 else torch.zeros_like(scores)


def _sources(groups: Sequence[Group]) -> list[tuple[str, int]]:
    readers: list[Reader] = [reader for group in groups for reader in group.readers]
    return list(dict.fromkeys((r.source, r.axis) for r in readers))
