"""Weights of a restoration network that the spandrel package knows (SwinIR, HAT, SPAN and others).

Its classes are built from the names and shapes of the weights; nothing of the file is run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

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


class _Called(nn.Module):
    """A network together with what spandrel does to its pictures before and after.

    Some count pictures from -1 to 1, want a map of the noise beside them, or return more than the
    picture.
    """

    def __init__(self, network: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, image: Tensor) -> Tensor:
        return self.call(self.network, image)


class _Masked(_Called):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.call(self.network, image, mask)


def available() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("spandrel") is not None


def read_restoration(path: Path) -> Restoration | None:
    """The network that the weights belong to; None when spandrel does not know it either.

    Raises:
        LeanganError: the file is damaged or holds more than weights.
    """
    from spandrel import MaskedImageModelDescriptor, ModelLoader, UnsupportedModelError

    try:
        with quiet():
            found = ModelLoader(device="cpu").load_from_state_dict(read_tensors(path))
    except UnsupportedModelError:
        return None
    need = found.size_requirements
    multiple = max(1, need.multiple_of)
    size = -(-max(_USUAL, need.minimum) // multiple) * multiple
    steps = (1, 1, multiple, multiple)
    inputs = [_port("image", "image", found.input_channels, size, steps)]
    if isinstance(found, MaskedImageModelDescriptor):
        inputs.append(_port("mask", "mask", 1, size, steps))
    outputs = (_port("output", "image", found.output_channels, found.scale * size, (1, 1, 1, 1)),)
    notes = (f"{found.architecture.name} x{found.scale}, as spandrel reads it", *found.tags)
    # Its public call also pads and clips, which is for whoever runs the network.
    call = found._call_fn
    if call.__module__ == type(found).__module__:
        module = found.model  # nothing of its own, and the weights keep their names
    else:
        module = (_Called if len(inputs) == 1 else _Masked)(found.model, call)
    return Restoration(module.eval(), found.architecture.name, tuple(inputs), outputs, notes)


def _port(name: str, kind: Any, channels: int, size: int, steps: tuple[int, ...]) -> Port:
    shape, typical = (None, channels, None, None), (1, channels, size, size)
    return Port(name, kind, "NCHW", shape, typical, (0.0, 1.0), steps)
