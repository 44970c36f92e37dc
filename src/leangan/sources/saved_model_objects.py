"""The objects of a SavedModel: which layer is whose, and in which order its variables are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leangan.errors import LeanganError
from leangan.sources.protobuf import Message

_MOST_WEIGHTS = 100_000


@dataclass(frozen=True)
class Object:
    """A layer, a list, a variable."""

    children: Mapping[str, int]
    """The numbers of other objects by the names of its attributes."""
    key: str
    """Where its value lies among the variables; empty where it is none."""
    trained: bool
    """Whether it is a variable that is trained; only `saved_model.pb` tells."""


class ObjectGraph:
    """Objects by number, 0 is the model; as the variables have them, or `saved_model.pb`.

    Raises:
        ValueError: it is damaged.
    """

    def __init__(self, nodes: Sequence[memoryview]) -> None:
        self.objects = [_object(Message(node)) for node in nodes]
        places = {child for o in self.objects for child in o.children.values()}
        if not self.objects or not all(0 <= place < len(self.objects) for place in places):
            raise ValueError("the graph of its objects has holes")

    @cached_property
    def holders(self) -> set[int]:
        """The objects that have variables, be it deep inside of them."""
        parents: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(self.objects):
            for child in item.children.values():
                parents[child].append(place)
        found = [place for place, item in enumerate(self.objects) if item.key]
        holders: set[int] = set()
        for place in found:
            new = set(parents[place]) - holders
            holders |= new
            found += new
        return holders

    def at(self, *names: str) -> int | None:
        """The object that the names of attributes lead to from the model."""
        place: int | None = 0
        for name in names:
            place = None if place is None else self.objects[place].children.get(name)
        return place

    def listed(self, *names: str) -> list[str] | None:
        """The keys of the variables in the list at `names`; None where there is no list."""
        place = self.at(*names)
        if place is None:
            return None
        children = self.objects[place].children
        return [self.objects[children[name]].key for name in _numbered(children)]


def weights_by_layer(
    graph: ObjectGraph, saved: Callable[[], ObjectGraph], folder: Path
) -> dict[str, list[str]]:
    """The keys of each layer's weights, in the order in which an `.h5` has layers and weights.

    Args:
        graph: as the variables have it.
        saved: makes that of `saved_model.pb`; called where a layer has no lists of variables.
        folder: for errors.

    Returns:
        Keys by the layer's number; those of the model itself by "".

    Raises:
        ValueError: the graph is damaged.
        LeanganError: it does not tell the order.
    """
    home: tuple[str, ...] = ("keras_api", "layers")
    place = graph.at(*home)
    if place is not None:
        names = _numbered(graph.objects[place].children)
    else:  # saved with save_traces=False
        home, names = (), _numbered(graph.objects[0].children, "layer-")
    made: dict[str, list[str]] = {}
    count = 0
    for name in names:
        made[name] = _weights(graph, (*home, name), saved, folder)
        count += len(made[name])
        if count > _MOST_WEIGHTS:
            raise ValueError("it has too many weights")
    known = {key for keys in made.values() for key in keys}
    return {**made, "": [key for key in _weights(graph, (), saved, folder) if key not in known]}


def _weights(
    graph: ObjectGraph, layer: tuple[str, ...], saved: Callable[[], ObjectGraph], folder: Path
) -> list[str]:
    trained = graph.listed(*layer, "trainable_variables")
    others = graph.listed(*layer, "keras_api", "non_trainable_variables")
    if trained is not None and others is not None:
        return [*trained, *others]
    place = graph.at(*layer)
    assert place is not None
    children = graph.objects[place].children
    own = [name for name, child in children.items() if graph.objects[child].key]
    keys = {name: graph.objects[children[name]].key for name in own}
    if layer and (set(children.values()) & graph.holders):
        raise LeanganError(
            f"{folder} was saved with save_traces=False and does not tell the order of the weights "
            f"in its {layer[-1]}, which holds layers itself; save it again without that, or as .h5."
        )
    if own:  # in the order in which they were made
        types = saved()
        places = {name: types.at(*layer, name) for name in own}
        own.sort(key=lambda name: (p := places[name]) is None or not types.objects[p].trained)
    return [keys[name] for name in own]


def _numbered(names: Iterable[str], before: str = "") -> list[str]:
    """The names that are `before` and a number, by their numbers."""
    found = [n for n in names if n.startswith(before) and n[len(before) :].isdecimal()]
    return sorted(found, key=lambda n: int(n[len(before) :]))


def _object(node: Message) -> Object:
    values = [value.text(3) for value in node.messages(2) if value.text(1) == "VARIABLE_VALUE"]
    return Object(
        {child.text(2): child.whole(1) for child in node.messages(1)},
        values[0] if values else "",
        any(variable.whole(3) for variable in node.messages(7)),
    )
