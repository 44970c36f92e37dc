"""The graph of a Keras model: its calls in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leangan.sources.keras_layers import Layout

_OURS = "leangan.sources.keras_standins"


@dataclass(frozen=True)
class Place:
    """Where a value of the run is kept."""

    index: int


def is_builtin(operation: Any) -> bool:
    """Whether it is of Keras itself or one of our stand-ins, so that its name tells all."""
    home = type(operation).__module__
    return home.startswith("keras.") or home == _OURS


def graph_of(operation: Any) -> Any:
    """The functional graph of a model that computes nothing but its graph; None of all else."""
    if not is_builtin(operation):
        return None
    functional = getattr(operation, "_functional", None) or operation
    return functional if hasattr(functional, "_nodes_by_depth") else None


def nodes_of(graph: Any) -> Iterator[Any]:
    """The calls of a graph, its inputs left out; each after what it reads."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def layout_of(graph: Any) -> Layout:
    """Pictures and volumes have their channels moved; series where a layer takes them for such."""
    layers = list(_operations(graph))
    formats = {getattr(layer, "data_format", None) for layer in layers}
    if "channels_first" in formats:
        return Layout(frozenset())
    series = any("1D" in type(layer).__name__ for layer in layers if is_builtin(layer))
    return Layout(frozenset((3, 4, 5) if series else (4, 5)))


def _operations(graph: Any) -> Iterator[Any]:
    for node in nodes_of(graph):
        inner = graph_of(node.operation)
        if inner is None:
            yield node.operation
        else:
            yield from _operations(inner)


def readers(tensor: Any) -> list[Any]:
    """The layers that read an input."""
    nodes = tensor._keras_history.operation._outbound_nodes
    return [node.operation for node in nodes]


def places_in(arguments: Any, places: Mapping[int, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with a place for each symbolic tensor."""
    ids = {id(t) for t in arguments.keras_tensors}
    args, kwargs = arguments.convert(lambda x: Place(places[id(x)]) if id(x) in ids else x)
    return tuple(args), dict(kwargs)


def taken(value: Any, values: Mapping[int, Any]) -> Any:
    """The same with what is kept there in each place."""
    if isinstance(value, Place):
        return values[value.index]
    if isinstance(value, list | tuple):
        return type(value)([taken(item, values) for item in value])
    if isinstance(value, dict):
        return {key: taken(item, values) for key, item in value.items()}
    return value
