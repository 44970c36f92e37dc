"""The ways in: whatever holds a trained network becomes a Generator."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Signature
from leangan.sources import (
    exported,
    keras_file,
    known,
    live,
    ncnn_file,
    onnx_file,
    python,
    saved_model,
    tfjs_file,
    torchscript,
    zoo_name,
)
from leangan.sources.base import Request, Source
from leangan.sources.ports import check_stated, override

SOURCES: tuple[Source, ...] = (
    live,
    zoo_name,
    python,
    ncnn_file,
    onnx_file,
    tfjs_file,
    keras_file,
    saved_model,
    torchscript,
    exported,
    known,
)
"""Asked in this order; the first that accepts reads. `known` takes any other file."""

_WITH_CODE = (tfjs_file, keras_file, saved_model)

Examples = Tensor | Sequence[int] | Sequence[Tensor | Sequence[int]]

_NOT_YET = {
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
}


def load(
    source: Any,
    *,
    weights: Path | str | None = None,
    example_inputs: Examples | None = None,
    part: str = "generator",
    trust: bool = False,
    code: Path | str | None = None,
    task: str | None = None,
    kinds: Mapping[str, str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    starts: Sequence[str] = (),
    ends: Sequence[str] = (),
) -> Generator:
    """Read a trained network, whatever form it has, and prepare it.

    Args:
        source: a live `nn.Module`; a path to a checkpoint of a known architecture, a `.pt2`, an
            `.onnx` or a `.param`; a model of Keras (`.h5`, `.keras`), TensorFlow (the folder of
            a SavedModel) or TensorFlow.js (`model.json`); "path/to/file.py:Class"; or "zoo:NAME".
        weights: a file of weights for a module, a class or the `.json` of an architecture.
        example_inputs: a float tensor or a shape for each input (batch first), of a size that
            the network runs at; needed for modules and classes. A single one may stand alone.
        part: "generator" or "discriminator" of a whole GAN.
        trust: let code inside of the file run; only for files whose maker you trust.
        code: a Python file of yours that defines the layers of a Keras model by name; it is run.
        task: name of the task, wins over what is known.
        kinds: what a port means, for example `{"input": "image"}`, wins over what is known.
        ranges: value range of a port, for example `{"input": (-1, 1)}`, likewise.
        arguments: constructor arguments of a class, or of an architecture whose arguments
            cannot be read off the file.
        starts: names of values inside of an ONNX file at which to cut: they become the inputs.
        ends: likewise the outputs.

    Returns:
        The generator, its norms folded and its reparameterizations baked in.

    Raises:
        UsageError: there is no such thing, or what was said of it cannot be.
        UnsafeFile: the file would run code, and `trust` was not given.
        LeanganError: it cannot be read or captured.
    """
    request = Request(
        weights=Path(weights) if weights is not None else None,
        example_inputs=_tensors(example_inputs),
        part=part,
        trust=trust,
        code=Path(code) if code is not None else None,
        task=task,
        kinds=dict(kinds or {}),
        ranges=dict(ranges or {}),
        arguments=dict(arguments or {}),
        starts=tuple(starts),
        ends=tuple(ends),
    )
    for file in (request.weights, request.code):
        if file is not None and not file.is_file():
            raise UsageError(_no_such(file))
    for way in all_sources():
        if way.accepts(source):
            if request.code is not None and way not in _WITH_CODE:
                raise UsageError("--code is for models of Keras; this is none.")
            return _prepared(way.load(_checked(source), request), request)
    raise UsageError(
        f"{type(source).__name__} is nothing that can be loaded; give a path, 'file.py:Class', "
        "'zoo:NAME' or an nn.Module."
    )


@functools.cache
def all_sources() -> tuple[Source, ...]:
    """Ours, before the one that takes any file those of installed packages."""
    found = tuple(entry.load() for entry in entry_points(group="leangan.sources"))
    return (*SOURCES[:-1], *found, SOURCES[-1])


def _prepared(generator: Generator, request: Request) -> Generator:
    """The normalised generator, with what the user said of it."""
    from leangan.graph.fuse import normalize

    generator = _sized(generator, request.example_inputs)
    signature = generator.signature
    names = [p.name for p in (*signature.inputs, *signature.outputs)]
    check_stated(names, request.kinds, request.ranges)
    stated = Signature(
        override(signature.inputs, request.kinds, request.ranges),
        override(signature.outputs, request.kinds, request.ranges),
    )
    task = request.task or generator.task
    return normalize(dataclasses.replace(generator, signature=stated, task=task))


def _sized(generator: Generator, examples: Sequence[Tensor] | None) -> Generator:
    """The sizes of the examples as the usual ones, also of what came with usual sizes of its own.

    Raises:
        UsageError: they do not fit the inputs.
    """
    if examples is None:
        return generator
    inputs = generator.signature.inputs
    if len(inputs) != len(examples):
        raise UsageError(f"{len(examples)} sizes were given, {generator.name} takes {len(inputs)}.")
    sizes: dict[str, int] = {}
    for port, x in zip(inputs, examples, strict=True):
        axes = zip(port.layout, port.shape, x.shape, strict=False)
        # Only free axes are shared by inputs: each has its own number of channels.
        fits = x.dim() == len(port.shape) and all(
            sizes.setdefault(letter, n) == n if fixed is None else fixed == n
            for letter, fixed, n in axes
        )
        if not fits:
            raise UsageError(
                f"Input {port.name!r} is {port.shape} (None: any size); {tuple(x.shape)} does "
                "not fit it."
            )
    return generator.sized(sizes)


def _tensors(examples: Examples | None) -> tuple[Tensor, ...] | None:
    """One tensor per input from tensors or shapes, a single one or several."""
    if examples is None:
        return None
    if isinstance(examples, Tensor):
        return (examples,)
    several = list(examples) if any(not isinstance(e, int) for e in examples) else [examples]
    made = []
    for example in several:
        if isinstance(example, Tensor):
            made.append(example)
            continue
        sizes = [] if isinstance(example, int) else [s for s in example if isinstance(s, int)]
        if not sizes or min(sizes) < 1 or isinstance(example, int) or len(sizes) != len(example):
            raise UsageError(f"{example!r} is no shape: whole numbers above zero are needed.")
        made.append(torch.randn(sizes, generator=torch.Generator().manual_seed(0)))
    return tuple(made)


def _checked(source: Any) -> Any:
    """The source, after the mistakes that people make with paths are ruled out."""
    if not isinstance(source, str | Path) or python.accepts(source) or zoo_name.accepts(source):
        return source
    path = Path(source)
    if not path.exists():
        raise UsageError(_no_such(path))
    if path.is_dir() and not saved_model.accepts(path):
        files = [p.name for p in sorted(path.iterdir()) if p.suffix in _CHECKPOINTS]
        inside = f", for example {path / files[0]}" if files else ""
        raise UsageError(f"{path} is a folder; name the model file in it{inside}.")
    if path.suffix == ".py":
        raise UsageError(f"{path} is Python code: name the class in it, as in {path}:Generator.")
    if path.suffix.lower() in _NOT_YET and not saved_model.accepts(path):
        raise LeanganError(
            f"{path} is a {_NOT_YET[path.suffix.lower()]} model, which this version does not read "
            "yet. Give the PyTorch weights, or 'file.py:Class' with --weights."
        )
    if path.stat().st_size == 0:
        raise LeanganError(f"{path} is empty.")
    return path


_CHECKPOINTS = (
    ".pth",
    ".pt",
    ".ckpt",
    ".tar",
    ".safetensors",
    ".pt2",
    ".onnx",
    ".param",
    ".bin",
    ".h5",
    ".keras",
)


def _no_such(path: Path) -> str:
    """The sentence for a path that does not exist, with names that resemble it."""
    from leangan import zoo

    if str(path) in zoo.names():
        return f"There is no file {path}; write zoo:{path} for the network of that name."
    near: list[str] = []
    if path.parent.is_dir():
        # By stem: all files with the same ending resemble each other.
        by_stem = {p.stem: p.name for p in path.parent.iterdir()}
        near = [by_stem[n] for n in difflib.get_close_matches(path.stem, by_stem, 3, 0.6)]
    hint = f"; near it lie {', '.join(near)}" if near else ""
    return f"There is no file {path}{hint}."
