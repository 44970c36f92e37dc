"""A Keras model as a plain nn.Module with its channels first, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leangan.errors import LeanganError
from leangan.sources.keras_build import reason
from leangan.sources.keras_graph import Place, graph_of, nodes_of, places_in, taken
from leangan.sources.keras_layers import Layout
from leangan.sources.keras_makers import maker_of, operator_of
from leangan.sources.keras_shuffle import ACTIVATIONS, DepthToSpace, convolution_of, reorder


@dataclass(frozen=True)
class Call:
    """One step: what runs, on what, and where its results go."""

    layer: str
    """The name of the Keras layer, for errors."""
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]

    def on(self, values: dict[int, Any]) -> None:
        """Run it on the values that are there, and put its results among them."""
        made = self.run(*taken(self.args, values), **taken(self.kwargs, values))
        results = list(made) if isinstance(made, list | tuple) else [made]
        values.update(zip(self.outputs, results, strict=True))


class AsKeras(nn.Module):
    """A layer that has no form of its own here: Keras runs it, on tensors as it has them."""

    def __init__(self, operation: Callable[..., Any], layout: Layout) -> None:
        super().__init__()
        self.operation, self.layout = operation, layout

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Turn, run, turn back."""
        args, kwargs = self.layout.theirs_in(args), self.layout.theirs_in(kwargs)
        return self.layout.ours_in(self.operation(*args, **kwargs))


class KerasModule(nn.Module):
    """Runs a functional or sequential model of Keras.

    Args:
        model: built, with its weights.
        layout: see there.
        examples: an input each, in our layout; their spatial sizes decide how strided layers with
            padding "same" pad.

    Raises:
        LeanganError: a layer cannot be run; it is named.
    """

    def __init__(self, model: Any, layout: Layout, examples: Sequence[Tensor]) -> None:
        super().__init__()
        self.layout = layout
        self.layers = nn.ModuleDict()
        self.plan: list[Call] = []
        self.foreign: list[str] = []
        """The layers that Keras itself runs."""
        made: dict[tuple[Any, ...], Callable[..., Any]] = {}
        values: dict[int, Any] = dict(enumerate(examples))
        graph = graph_of(model)
        places = {id(t): i for i, t in enumerate(graph.inputs)}
        self._walk(graph, places, values, made)
        self.outputs = [places[id(t)] for t in graph.outputs]
        self._bake()

    def forward(self, *inputs: Tensor) -> Any:
        """Run the plan; one tensor, or a tuple when there are several outputs."""
        values: dict[int, Any] = dict(enumerate(inputs))
        for call in self.plan:
            call.on(values)
        results = tuple(values[place] for place in self.outputs)
        return results if len(results) > 1 else results[0]

    def _bake(self) -> None:
        _bake_shuffles(self.plan, self.outputs)

    def _walk(
        self,
        graph: Any,
        places: dict[int, int],
        values: dict[int, Any],
        made: dict[tuple[Any, ...], Callable[..., Any]],
    ) -> None:
        """Add the calls of a graph; models within it are walked as if they stood in it."""
        for node in nodes_of(graph):
            inner = graph_of(node.operation)
            if inner is None:
                self._add(node, places, values, made)
                continue
            given = [places[id(t)] for t in node.arguments.keras_tensors]
            within = {id(t): p for t, p in zip(inner.inputs, given, strict=True)}
            self._walk(inner, within, values, made)
            for outer, own in zip(node.outputs, inner.outputs, strict=True):
                places[id(outer)] = within[id(own)]

    def _add(
        self,
        node: Any,
        places: dict[int, int],
        values: dict[int, Any],
        made: dict[tuple[Any, ...], Callable[..., Any]],
    ) -> None:
        operation, name = node.operation, str(node.operation.name)
        args, kwargs = places_in(node.arguments, places)
        first = len(values)
        outputs = tuple(range(first, first + len(node.outputs)))
        places |= {id(t): i for t, i in zip(node.outputs, outputs, strict=True)}
        try:
            call = self._call(operation, name, args, kwargs, values, made)
            call = replace(call, outputs=outputs)
            with torch.no_grad():
                call.on(values)
        except LeanganError:
            raise
        except Exception as error:
            raise LeanganError(
                f"Layer {name!r} ({type(operation).__name__}) does not run: {reason(error)}"
            ) from error
        self.plan.append(call)

    def _call(
        self,
        operation: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        values: dict[int, Any],
        made: dict[tuple[Any, ...], Callable[..., Any]],
    ) -> Call:
        """The call in its best form: our own layer, our own operator, or Keras."""
        operator = operator_of(operation, args, kwargs, values, self.layout)
        if operator is not None:
            return Call(name, self._named(operator[0], name), operator[1], {}, ())
        places = _only_places(args, kwargs)
        examples = [values[p.index] for p in places or ()]
        # A layer that is used twice is made once, where it does not depend on the size.
        key = (id(operation), *(tuple(x.shape[2:]) for x in examples))
        maker = maker_of(operation) if places else None
        if maker is not None and key not in made:
            run = maker(operation, self.layout, *examples)
            if run is not None:
                made[key] = self._named(run, name)
        if maker is not None and places and key in made:
            return Call(name, made[key], places, {}, ())
        if (id(operation), None) not in made:
            self.foreign.append(name)
            made[id(operation), None] = self._named(AsKeras(operation, self.layout), name)
        return Call(name, made[id(operation), None], args, kwargs, ())

    def _named(self, run: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same, among the submodules under the layer's name."""
        if isinstance(run, nn.Module):
            name = re.sub(r"\W", "_", name)
            while name in self.layers or hasattr(nn.ModuleDict, name):
                name += "_"
            self.layers[name] = run.eval()  # the example must not move its statistics
        return run


def _only_places(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Place, ...] | None:
    """The inputs of a call that has nothing but tensors, None of any other."""
    if any(value is not None and key != "training" for key, value in kwargs.items()):
        return None
    several = len(args) == 1 and isinstance(args[0], list | tuple)
    places = tuple(args[0]) if several else args
    return places if places and all(isinstance(p, Place) for p in places) else None


def _bake_shuffles(plan: list[Call], outputs: Sequence[int]) -> None:
    """Order a convolution's channels as PyTorch's pixel_shuffle wants them, where it is next.

    What lies between may only be an activation, which does not mind the order.
    """
    readers = [p.index for call in plan for p in call.args if isinstance(p, Place)] + [*outputs]
    makers = {place: call for call in plan for place in call.outputs}
    runs = [call.run for call in plan]
    for i, call in enumerate(plan):
        if not isinstance(call.run, DepthToSpace):
            continue
        source = makers.get(call.args[0].index)
        while source is not None and readers.count(source.outputs[0]) == 1:
            if isinstance(source.run, ACTIVATIONS):
                source = makers.get(source.args[0].index)
                continue
            layer = convolution_of(source.run)
            if layer is not None and runs.count(source.run) == 1:
                plan[i] = replace(call, run=reorder(layer, call.run.block))
            break
