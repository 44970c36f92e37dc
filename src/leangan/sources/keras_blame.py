"""Which layer of a Keras model is not computed as Keras does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from leangan.graph.difference import share_of_range
from leangan.sources.keras_graph import taken
from leangan.sources.keras_layers import Layout
from leangan.sources.keras_module import AsKeras, Call, KerasModule


def first_departure(
    graph: Any,
    layout: Layout,
    made_on: Sequence[Tensor],
    inputs: Sequence[Tensor],
    tolerance: float,
) -> str:
    """The first layer, in the order of the run, that differs from Keras on the same input.

    Args:
        graph: of the Keras model.
        layout: see there.
        made_on: the examples that the module was made with, in our layout.
        inputs: those on which it departs.
        tolerance: what is no departure, as a share of the range of what the layer puts out.

    Returns:
        A sentence that names the layer and the difference, or that no layer alone departs.
    """
    module = _Checked(graph, layout, made_on)
    with torch.no_grad():
        module(*inputs)
    for call in module.plan:
        assert isinstance(call, _CheckedCall)
        if not call.differences[-1] <= tolerance:
            return (
                f"Layer {call.layer!r} ({type(call.keras.operation).__name__}) is the first to "
                f"depart, by {call.differences[-1]:.1e} of its own range."
            )
    return "No layer departs alone."


@dataclass(frozen=True)
class _CheckedCall(Call):
    """One that Keras runs beside us, on our values."""

    keras: AsKeras
    given: tuple[tuple[Any, ...], Mapping[str, Any]]
    """The arguments as Keras has them."""
    differences: list[float]
    """Of each run."""

    def on(self, values: dict[int, Any]) -> None:
        super().on(values)
        expected = self.keras(*taken(self.given[0], values), **taken(self.given[1], values))
        expected = expected if isinstance(expected, list | tuple) else [expected]
        found = [values[place] for place in self.outputs]
        self.differences.append(max(map(share_of_range, expected, found)))


class _Checked(KerasModule):
    def _call(
        self,
        operation: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        values: dict[int, Any],
        made: dict[tuple[Any, ...], Callable[..., Any]],
    ) -> Call:
        call = super()._call(operation, name, args, kwargs, values, made)
        own = {field.name: getattr(call, field.name) for field in fields(Call)}
        return _CheckedCall(
            **own, keras=AsKeras(operation, self.layout), given=(args, kwargs), differences=[]
        )

    def _bake(self) -> None:
        """Leave the order of channels as Keras has it, so that each layer can be compared."""
