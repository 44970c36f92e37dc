"""Name and describe the inputs and outputs of a captured program."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from leangan.errors import UsageError
from leangan.generator import KINDS, Kind, Port

_LAYOUTS = {1: "N", 2: "NC", 3: "NCT", 4: "NCHW", 5: "NCDHW"}
_SAME_VALUES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "clone",
        "pixel_shuffle",
        "slice",
        "alias",
        "permute",
        "contiguous",
        "squeeze",
        "unsqueeze",
        "flatten",
        "_to_copy",
        "expand",
        "select",
    ]
)


def layout_of(dimensions: int) -> str:
    """The usual layout of a tensor with so many axes."""
    return _LAYOUTS.get(dimensions) or "N" + "ABCDEFGIJK"[: dimensions - 1]


def input_names(module: nn.Module, count: int) -> list[str]:
    """The names of the first `count` parameters of the module's forward."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"
    ]
    if len(named) < count:  # forward(*inputs)
        return ["input"] if count == 1 else [f"input_{i}" for i in range(count)]
    return named[:count]


def output_names(count: int) -> list[str]:
    """`output`, or `output_0` and so on when there are several."""
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def guess_kind(layout: str, shape: Sequence[int | None]) -> Kind | None:
    """Tell a picture by its 1, 3 or 4 channels; everything else is left unsaid."""
    plane = all(size is None or size > 1 for size in shape[2:])
    return "image" if layout == "NCHW" and shape[1] in (1, 3, 4) and plane else None


def override(
    ports: Sequence[Port],
    kinds: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
) -> tuple[Port, ...]:
    """The ports with what the user said of them by name."""
    made = []
    for port in ports:
        changes: dict[str, Any] = {}
        if port.name in kinds:
            changes["kind"] = kinds[port.name]
        if port.name in ranges:
            low, high = ranges[port.name]
            changes["range"] = (float(low), float(high))
        made.append(dataclasses.replace(port, **changes) if changes else port)
    return tuple(made)


def check_stated(
    names: Sequence[str],
    kinds: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Refuse statements about ports that do not exist, unknown kinds and empty ranges.

    Raises:
        UsageError: with the names that there are.
    """
    for said in (*kinds, *ranges):
        if said not in names:
            raise UsageError(f"There is no input or output {said!r}; there are {', '.join(names)}.")
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise UsageError(f"{kind!r} is no kind for {name!r}; choose from {', '.join(KINDS)}.")
    for name, (low, high) in ranges.items():
        if not low < high:
            raise UsageError(f"The range of {name!r}, {low} to {high}, is empty.")


def output_ranges(program: ExportedProgram) -> list[tuple[float, float] | None]:
    """The value range of each output, where a last tanh, sigmoid or clamp bounds it."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [_interval(nodes[str(name)]) for name in program.graph_signature.user_outputs]


def _interval(node: Any) -> tuple[float, float] | None:
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    operator = str(node.target).split(".")[1] if "." in str(node.target) else ""
    arguments = node.args
    if operator == "tanh":
        return (-1.0, 1.0)
    if operator == "sigmoid":
        return (0.0, 1.0)
    if operator in ("clamp", "hardtanh") and len(arguments) == 3:
        low, high = arguments[1:]
        both = isinstance(low, int | float) and isinstance(high, int | float)
        return (float(low), float(high)) if both else None  # type: ignore[arg-type]
    if operator in _SAME_VALUES:
        return _interval(arguments[0])
    if operator in ("add", "sub", "mul", "div") and len(arguments) == 2:
        inner, number = _interval(arguments[0]), arguments[1]
        if inner is None or not isinstance(number, int | float) or node.kwargs:
            return None
        ends = [_apply(operator, end, float(number)) for end in inner]
        return (min(ends), max(ends))
    return None


def _apply(operator: str, value: float, number: float) -> float:
    if operator == "add":
        return value + number
    if operator == "sub":
        return value - number
    return value * number if operator == "mul" else value / (number or float("nan"))
