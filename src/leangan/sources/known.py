"""A weights file of a network that one of `leangan.architectures` recognises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from leangan.errors import UnknownNetwork, UsageError
from leangan.generator import Generator, Port, Step
from leangan.sources import restoration
from leangan.sources.base import Request
from leangan.sources.checkpoint import load_checkpoint
from leangan.sources.module import from_module


def accepts(source: Any) -> bool:
    """Whether it is a path; the file itself is judged when it is read."""
    return isinstance(source, str | Path)


def load(source: Any, request: Request) -> Generator:
    """Recognise the network, build and fill it, and capture it with what its family knows.

    A pickled whole network (`trust`) brings its own class, and needs example inputs.

    Raises:
        UsageError: `request.weights` beside a file that has weights itself.
        LeanganError: see `load_checkpoint` and `from_module`.
    """
    path = Path(source)
    if request.weights is not None:
        raise UsageError(f"{path} holds weights itself; --weights belongs to a 'file.py:Class'.")
    try:
        module, family, arguments, found = load_checkpoint(
            path, part=request.part, trust=request.trust, arguments=request.arguments
        )
    except UnknownNetwork as error:
        return _restoration(path, request, error)
    inputs: tuple[Port, ...] | None = None
    outputs: tuple[Port, ...] | None = None
    task = request.task
    if family is not None:
        inputs, outputs = family.ports(**arguments)
        task = task or family.task
    generator = from_module(
        module,
        request.example_inputs,
        name=path.stem,
        task=task,
        inputs=inputs,
        outputs=outputs,
        kinds=request.kinds,
        ranges=request.ranges,
    )
    (step,) = generator.history
    settings = {
        "file": path.name,
        "architecture": family.name if family else type(module).__name__,
        "arguments": arguments,
        "notes": list(found.notes),
    }
    return dataclasses.replace(
        generator, history=(Step(step.name, {**step.settings, **settings}, step.measured),)
    )


def _restoration(path: Path, request: Request, unknown: UnknownNetwork) -> Generator:
    """A network of the spandrel package, where that is installed and knows it.

    Raises:
        UnknownNetwork: it is not, or does not.
    """
    if not restoration.available():
        raise UnknownNetwork(
            f"{unknown} Image restoration networks (SwinIR, HAT, SPAN...) are read with: "
            "pip install 'leangan[spandrel]'"
        ) from unknown
    found = restoration.read_restoration(path) if request.part == "generator" else None
    if found is None:
        raise unknown
    generator = from_module(
        found.module,
        request.example_inputs,
        name=path.stem,
        task=request.task,
        inputs=found.inputs,
        outputs=found.outputs,
        kinds=request.kinds,
        ranges=request.ranges,
    )
    (step,) = generator.history
    settings = {"file": path.name, "architecture": found.architecture, "notes": list(found.notes)}
    return dataclasses.replace(
        generator, history=(Step(step.name, {**step.settings, **settings}, step.measured),)
    )
