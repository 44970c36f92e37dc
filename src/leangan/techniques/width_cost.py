"""What a generator would cost at other widths, by a model that needs no run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch.fx import GraphModule

from leangan.generator import Generator
from leangan.graph.channels import Coupling, Positions
from leangan.graph.cost import layers

Resource = Literal["channels", "macs", "params"]

_Axes = tuple[tuple[tuple[str, float], ...], ...]
"""Per axis that can shrink: the groups on it, each with the share of the axis one channel takes."""


@dataclass(frozen=True)
class Item:
    """A layer's MACs or a tensor's elements: they scale with what is left of each axis."""

    whole: float
    axes: _Axes


class WidthCost:
    """The cost of a generator as a function of the widths of its groups.

    Layers whose weight is computed on the way scale with the channels that they read, not with
    those that they put out; what is meant to be exact must be counted on the pruned graph.
    """

    def __init__(self, generator: Generator, coupling: Coupling, of: Resource) -> None:
        self._full = {group.name: group.width for group in coupling.groups}
        self.items = _items(generator, coupling, of)
        self._touched: dict[str, list[Item]] = {name: [] for name in self._full}
        self._neighbours: dict[str, set[str]] = {name: {name} for name in self._full}
        for item in self.items:
            names = {name for axis in item.axes for name, _ in axis}
            for name in names:
                self._touched[name].append(item)
                self._neighbours[name] |= names
        self.whole = sum(item.whole for item in self.items)

    def total(self, widths: Mapping[str, int]) -> float:
        """The cost at these widths, one for each group."""
        return sum(self._cost(item, widths) for item in self.items)

    def change(self, widths: Mapping[str, int], name: str, width: int) -> float:
        """By how much the cost changes when one group gets another width."""
        after = {**widths, name: width}
        return sum(
            self._cost(item, after) - self._cost(item, widths) for item in self._touched[name]
        )

    def neighbours(self, name: str) -> set[str]:
        """The groups whose savings depend on this one's width, itself included."""
        return self._neighbours[name]

    def _cost(self, item: Item, widths: Mapping[str, int]) -> float:
        left = item.whole
        for axis in item.axes:
            left *= 1 - sum((self._full[name] - widths[name]) * share for name, share in axis)
        return left


def _items(generator: Generator, coupling: Coupling, of: Resource) -> list[Item]:
    if of == "channels":
        return [Item(g.width, (((g.name, 1 / g.width),),)) for g in coupling.groups]
    module = generator.module()
    axes = _weight_axes(module, coupling)
    if of == "params":
        return [Item(p.numel(), axes.get(path, ())) for path, p in module.named_parameters()]
    read = _read_axes(module, coupling)
    return [
        Item(layer.macs, axes.get(layer.weight or "", ()) or read.get(layer.node, ()))
        for layer in layers(generator)
    ]


def _weight_axes(module: GraphModule, coupling: Coupling) -> dict[str, _Axes]:
    stored = [*module.named_parameters(), *module.named_buffers()]
    shapes = {path: tuple(tensor.shape) for path, tensor in stored}
    found: dict[str, dict[int, list[tuple[str, float]]]] = {}
    for group in coupling.groups:
        for member in group.members:
            if member.path in shapes:
                share = _each(member.positions) / shapes[member.path][member.axis]
                axis = found.setdefault(member.path, {}).setdefault(member.axis, [])
                axis.append((group.name, share))
    return {path: tuple(tuple(axis) for axis in by.values()) for path, by in found.items()}


def _read_axes(module: GraphModule, coupling: Coupling) -> dict[str, _Axes]:
    nodes = {node.name: node for node in module.graph.nodes}
    found: dict[str, dict[int, list[tuple[str, float]]]] = {}
    for group in coupling.groups:
        for reader in group.readers:
            size = nodes[reader.source].meta["val"].shape[reader.axis]
            share = _each(reader.positions) / int(size)
            found.setdefault(reader.node, {}).setdefault(0, []).append((group.name, share))
    return {name: tuple(tuple(axis) for axis in by.values()) for name, by in found.items()}


def _each(positions: Positions) -> float:
    """How many indices one channel takes, on average."""
    return sum(map(len, positions)) / len(positions)
