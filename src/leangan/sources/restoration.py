"""Weights of a restoration network that the spandrel package knows (SwinIR, HAT, SPAN and others).

Its classes are built from the names and shapes of the weights; nothing of the file is run.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from leangan.errors import LeanganError
from leangan.generator import Port
from leangan.graph.capture import quiet
from leangan.sources.tensors import read_tensors

_USUAL = 64


@dataclass(frozen=True)
class Restoration:
    """A network as spandrel built it."""

    module: nn.Module
    architecture: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: tuple[str, ...]


def available() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("spandrel") is not None


def read_restoration(path: Path) -> Restoration | None:
    """The network that the weights belong to; None when spandrel does not know it either.

    Raises:
        LeanganError: the file is damaged or holds more than weights, or takes a mask as well.
    """
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    try:
        with quiet():
            found = ModelLoader(device="cpu").load_from_state_dict(read_tensors(path))
    except UnsupportedModelError:
        return None
    if not isinstance(found, ImageModelDescriptor):
        raise LeanganError(
            f"{path} is a {found.architecture.name}, which takes a mask beside the picture: "
            "load it as 'file.py:Class' with --weights."
        )
    need = found.size_requirements
    multiple = max(1, need.multiple_of)
    size = -(-max(_USUAL, need.minimum) // multiple) * multiple
    steps = (1, 1, multiple, multiple)
    large = found.scale * size
    inputs = Port(
        "image", "image", "NCHW", (None, found.input_channels, None, None),
        (1, found.input_channels, size, size), (0.0, 1.0), steps,
    )  # fmt: skip
    outputs = Port(
        "output", "image", "NCHW", (None, found.output_channels, None, None),
        (1, found.output_channels, large, large), (0.0, 1.0),
    )  # fmt: skip
    notes = (f"{found.architecture.name} x{found.scale}, as spandrel reads it", *found.tags)
    return Restoration(found.model.eval(), found.architecture.name, (inputs,), (outputs,), notes)
