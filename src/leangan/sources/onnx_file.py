"""An ONNX file, from whatever tool: its operators as a graph, compared with ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Port, Step
from leangan.graph.difference import share_of_range
from leangan.measure.latency import Worker
from leangan.runtimes.base import Artifact
from leangan.runtimes.check import FP32_TOLERANCE, ROUNDING, round_up, three_sizes
from leangan.sources.base import Request
from leangan.sources.module import from_module
from leangan.sources.onnx_model import OnnxGraph, cut, pictures_first, read_graph, read_proto
from leangan.sources.onnx_module import OnnxModule
from leangan.sources.ports import guess_kind, layout_of

_QUANTIZED_TOLERANCE = 0.05
"""Where values are rounded, one that lies between two steps may fall to the other side."""
_USUAL = 64
_MOST = 2**26
"""Numbers of an input; the sizes in a damaged file may be anything."""


def accepts(source: Any) -> bool:
    """Whether it names an ONNX file."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx"


def load(source: Any, request: Request) -> Generator:
    """Read the file, or the part of it that the request cuts out.

    Args:
        source: path to the file.
        request: `starts` and `ends` name values at which to cut; `example_inputs` say sizes
            where the file leaves them open (64 otherwise).

    Raises:
        UsageError: a value or size that was named cannot be.
        LeanganError: damaged, an operator that is not read, or ONNX Runtime computes something
            else.
    """
    path = Path(source)
    request.only_generator(str(path))
    try:
        proto = read_proto(path)
        if request.starts or request.ends:
            proto = cut(proto, request.starts, request.ends, str(path))
        proto = pictures_first(proto)
        graph = read_graph(proto, str(path))
        module = OnnxModule(graph, str(path))
        examples = request.example_inputs or _examples(graph, str(path))
        results = module.try_shapes([tuple(x.shape) for x in examples])
    except LeanganError:
        raise
    except Exception as error:  # in a damaged file anything may stand anywhere
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise LeanganError(
            f"{path} is damaged, or holds what is not read: {type(error).__name__}: {reason}"
        ) from error
    generator = from_module(
        module,
        examples,
        inputs=_inputs(graph, examples),
        outputs=_outputs(graph, results, [tuple(x.shape) for x in examples]),
        name=path.stem,
        task=request.task,
        kinds=request.kinds,
        ranges=request.ranges,
    )
    return _compared(generator, proto, path)


def _examples(graph: OnnxGraph, name: str) -> tuple[Tensor, ...]:
    made = []
    for given in graph.inputs:
        shape = given.shape or _shape_by_reader(graph, given.name)
        if shape is None:
            raise UsageError(
                f"{name} does not tell the shape of {given.name!r}: say it, for example "
                "--size 1x3x256x256 (example_inputs=)."
            )
        layout = layout_of(len(shape))
        sizes = [
            size or (1 if letter == "N" else _USUAL)
            for letter, size in zip(layout, shape, strict=True)
        ]
        if np.prod([float(s) for s in sizes]) > _MOST:
            raise LeanganError(f"{name}: the shape of input {given.name!r}, {sizes}, is too large.")
        made.append(torch.randn(sizes, generator=torch.Generator().manual_seed(0)))
    return tuple(made)


def _shape_by_reader(graph: OnnxGraph, value: str) -> tuple[int | None, ...] | None:
    """What the first layer that reads a value says of its shape."""
    for node in graph.nodes:
        if value in node.inputs[:1] and node.kind in ("Conv", "ConvTranspose"):
            weight = graph.constants.get(node.inputs[1])
            if weight is not None:
                channels = (
                    weight.shape[0]
                    if node.kind == "ConvTranspose"
                    else weight.shape[1] * node.get("group", 1)
                )
                return (None, channels, *[None] * (weight.ndim - 2))
    for node in graph.nodes:  # through what keeps the shape
        if value in node.inputs[:1] and node.kind in ("LeakyRelu", "Relu", "Mul", "Identity"):
            return _shape_by_reader(graph, node.outputs[0])
    return None


def _inputs(graph: OnnxGraph, examples: Sequence[Tensor]) -> list[Port]:
    if len(examples) != len(graph.inputs):
        names = ", ".join(i.name for i in graph.inputs)
        raise UsageError(
            f"The model takes {len(graph.inputs)} inputs ({names}); {len(examples)} sizes were "
            "given."
        )
    ports = []
    for given, example in zip(graph.inputs, examples, strict=True):
        typical = tuple(example.shape)
        shape = given.shape or _shape_by_reader(graph, given.name) or (None,) * len(typical)
        if len(shape) != len(typical) or any(
            size not in (None, t) for size, t in zip(shape, typical, strict=True)
        ):
            raise UsageError(
                f"Input {given.name!r} has the shape {shape} in the file; {typical} does not fit."
            )
        layout = layout_of(len(shape))
        kind = "label" if given.whole else guess_kind(layout, shape)
        ports.append(Port(given.name, kind, layout, shape, typical))
    return ports


def _outputs(
    graph: OnnxGraph, results: Sequence[tuple[int, ...]], inputs: Sequence[tuple[int, ...]]
) -> list[Port]:
    ports = []
    for name, shape in zip(graph.outputs, results, strict=True):
        layout = layout_of(len(shape))
        kind = guess_kind(layout, shape)
        ports.append(Port(name, kind, layout, shape, shape))
    return ports


def _compared(generator: Generator, proto: onnx.ModelProto, path: Path) -> Generator:
    """Run ONNX Runtime on the same inputs, in a process of its own: a damaged file may end it."""
    sizes = three_sizes(generator)[:2]
    tolerance = _QUANTIZED_TOLERANCE if generator.quantized else FP32_TOLERANCE
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="leangan-") as folder:
        file = Path(folder) / "model.onnx"
        onnx.save_model(proto, str(file))
        try:
            with Worker(
                Artifact("onnxruntime", "fp32", (file,)), torch.get_num_threads()
            ) as worker:
                for size in sizes:
                    inputs = generator.example(round_up(generator, size), seed=1)
                    expected = worker.run([x.numpy() for x in inputs])
                    worst = max(worst, _difference(generator, inputs, expected))
        except LeanganError as error:
            return _noted(generator, {"not_compared": str(error)})
    if not worst <= tolerance:
        raise LeanganError(
            f"{path}: what was read differs from ONNX Runtime by {worst:.1e} of the output's "
            "range. Please report this."
        )
    return _noted(generator, {"difference_to_onnxruntime": worst, "sizes": sizes})


def _noted(generator: Generator, measured: dict[str, Any]) -> Generator:
    return generator.then(generator.program, Step("read_onnx", {}, measured))


def _difference(
    generator: Generator, inputs: Sequence[Tensor], expected: Sequence[np.ndarray]
) -> float:
    worst = 0.0
    for mine, array in zip(generator.outputs(*inputs), expected, strict=True):
        other = torch.from_numpy(np.asarray(array, np.float32))
        if mine.shape != other.shape or not torch.allclose(mine, other, rtol=0, atol=ROUNDING):
            worst = max(worst, share_of_range(other, mine))
    return worst
