"""Which channels must go together, found by running the network on labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.fx import GraphModule

from leangan.generator import Generator

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
    """Find all groups of channels that can be removed together."""
    raise NotImplementedError


def slice_module(
    generator: Generator, coupling: Coupling, keep: Mapping[str, Sequence[int]]
) -> Sliced:
    """An edited copy of the graph with only the kept channels, before it is exported again.

    Args:
        generator: is left as it is.
        coupling: of this generator.
        keep: per group name the kept channels, ascending, at least one. Groups that are not named
            stay whole.
    """
    raise NotImplementedError
