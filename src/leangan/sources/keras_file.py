"""Models that Keras saved: `.h5`, `.hdf5`, `.keras`, or a `.json` architecture and its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.generator import Generator, Port
from leangan.graph.capture import quiet
from leangan.graph.difference import share_of_range
from leangan.sources.base import Request
from leangan.sources.keras_blame import first_departure
from leangan.sources.keras_build import built, fill, keras_on_torch
from leangan.sources.keras_graph import graph_of, layout_of, readers
from leangan.sources.keras_layers import Layout
from leangan.sources.keras_module import KerasModule
from leangan.sources.keras_read import opened
from leangan.sources.module import from_module
from leangan.sources.ports import guess_kind
from leangan.sources.ports import layout_of as letters

_SUFFIXES = (".h5", ".hdf5", ".keras", ".json")
_TOLERANCE = 1e-4  # Keras sums some variances in a way that loses digits
_SIZES = (64, 128, 256, 512)  # tried in this order where the model leaves the size free


def accepts(source: Any) -> bool:
    """Whether it is a path with an ending that Keras uses."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in _SUFFIXES


def load(source: Any, request: Request) -> Generator:
    """Read the model, rebuild it with its channels first, and prove it equal to Keras.

    Raises:
        BackendMissing: Keras is not installed.
        UnsafeFile: the file holds code, and `request.trust` is not set.
        LeanganError: it is damaged, or has a layer that is not known; the layer is named.
    """
    path = Path(source)
    request.only_generator(str(path))
    with keras_on_torch() as keras, opened(path, request.weights) as file:
        model = built(keras, file.config, request, path)
        fill(model, file.weights, path)
        return from_keras(keras, model, path.stem, request)


def from_keras(keras: Any, model: Any, name: str, request: Request) -> Generator:
    """A built model of Keras as a Generator.

    Raises:
        LeanganError: see `KerasModule` and `from_module`.
    """
    graph = _graph(keras, model, name)
    layout = layout_of(graph)
    module, ports, examples = _module(graph, layout, request.example_inputs)
    generator = from_module(
        module.eval(),
        examples,
        name=name,
        task=request.task,
        inputs=ports,
        kinds=request.kinds,
        ranges=request.ranges,
    )
    difference = _largest_difference(graph, layout, generator, examples)
    (step,) = generator.history
    settings = {**step.settings, "architecture": f"Keras {type(model).__name__}"}
    measured = {**step.measured, "difference_to_keras": difference}
    if module.foreign:
        settings["run_by_keras"] = module.foreign
    return dataclasses.replace(
        generator, history=(dataclasses.replace(step, settings=settings, measured=measured),)
    )


def _graph(keras: Any, model: Any, name: str) -> Any:
    """The graph of the model; one around it where it is a class of its own."""
    graph = graph_of(model)
    if graph is not None:
        return graph
    shape = getattr(model, "_build_shapes_dict", None) or {}
    shape = shape.get("input_shape", next(iter(shape.values()), None))
    if not isinstance(shape, tuple | list):
        raise LeanganError(f"{name} does not say the shape of its input: call it before saving it.")
    x = keras.Input(batch_shape=tuple(shape), name="input")
    return keras.Model(x, model(x))


def _module(
    graph: Any, layout: Layout, examples: Sequence[Tensor] | None
) -> tuple[KerasModule, tuple[Port, ...], Sequence[Tensor]]:
    """The module, its inputs, and examples of the first size at which it runs."""
    error: LeanganError | None = None
    for size in _SIZES:
        ports = tuple(_port(t, layout, size) for t in graph.inputs)
        given = [_example(p) for p in ports] if examples is None else examples
        try:
            return KerasModule(graph, layout, given), ports, given
        except LeanganError as failure:
            error = error or failure
        if examples is not None or all(None not in p.shape[2:] for p in ports):
            break
    assert error is not None
    raise error


def _port(tensor: Any, layout: Layout, size: int) -> Port:
    """What Keras says of an input, in our layout."""
    shape = list(tensor.shape)
    if shape[-1] is None:
        raise LeanganError(f"Input {tensor.name!r} does not say how many channels it has.")
    axes = letters(len(shape)) if len(shape) != 3 else "NTC"
    if len(shape) in layout.moved:
        shape.insert(1, shape.pop())
        axes = letters(len(shape))
    typical = tuple(
        1 if axis == 0 and n is None else size if n is None else n for axis, n in enumerate(shape)
    )
    if str(tensor.dtype).startswith(("int", "uint")):
        rows = [r.input_dim for r in readers(tensor) if type(r).__name__ == "Embedding"]
        bounds = (0.0, float(min(rows, default=2) - 1))
        return Port(tensor.name, "label", axes, tuple(shape), typical, bounds)
    return Port(
        tensor.name, guess_kind(axes, shape), axes, tuple(shape), typical, _bytes_range(tensor)
    )


def _bytes_range(tensor: Any) -> tuple[float, float] | None:
    """0 to 255 where that is what a first Rescaling brings to 0..1 or -1..1."""
    for layer in readers(tensor):
        if type(layer).__name__ == "Rescaling" and isinstance(layer.scale, int | float):
            ends = (float(layer.offset), 255 * layer.scale + layer.offset)
            if any(math.dist(ends, usual) < 1e-3 for usual in ((0, 1), (-1, 1))):
                return (0.0, 255.0)
    return None


def _example(port: Port) -> Tensor:
    """Numbers that the input may have."""
    rng = torch.Generator().manual_seed(0)
    if port.range is None:
        return torch.randn(port.typical, generator=rng)
    low, high = port.range
    return torch.rand(port.typical, generator=rng) * (high - low) + low


def _largest_difference(
    graph: Any, layout: Layout, generator: Generator, made_on: Sequence[Tensor]
) -> float:
    """Between the generator and Keras itself at two sizes, as a share of the output's range.

    Raises:
        LeanganError: it is larger than rounding can make it; the first layer that departs is
            named.
    """
    worst = 0.0
    inputs = generator.signature.inputs
    step = max(p.multiple_of(axis) for p in inputs for axis in range(1, len(p.shape)))
    least = -(-_SIZES[0] // step) * step
    for sizes in ({}, {"N": 2, "H": least + step, "W": least + 2 * step, "T": least + 3 * step}):
        example = generator.example(sizes, seed=3)
        with quiet(), torch.no_grad():
            expected = layout.ours_in(graph([layout.theirs(x) for x in example]))
        expected = expected if isinstance(expected, list | tuple) else [expected]
        for x, y in zip(expected, generator.outputs(*example), strict=True):
            difference = share_of_range(x, y)
            if not difference <= _TOLERANCE:
                blame = first_departure(graph, layout, made_on, example, _TOLERANCE)
                raise LeanganError(
                    f"The graph of {generator.name} does not compute what Keras does at "
                    f"{', '.join(str(tuple(e.shape)) for e in example)}: the difference is "
                    f"{difference:.1e} of the range. {blame} This should not be; please report it."
                )
            worst = max(worst, difference)
    return worst
