"""What an architecture family is: how it is recognised in a file, built, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leangan.generator import Port

State = Mapping[str, Tensor]
"""A state dict: weight names to tensors. Weight normalization is already baked in."""
Ports = tuple[tuple[Port, ...], tuple[Port, ...]]
"""Input ports, output ports."""
Part = Literal["generator", "discriminator", "features"]


def unchanged(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The renaming of a family that knows only its own names."""
    return dict(state)


def no_caution(arguments: Mapping[str, Any]) -> str | None:
    """For a family without pitfalls."""
    return None


@dataclass(frozen=True)
class Architecture:
    """One family of networks, one file in this room."""

    name: str
    """As people type it, for example "cyclegan"."""
    summary: str
    """One line for people, with the paper."""
    task: str | None
    """The task of `leangan.tasks` that its generators do, None where it is no generator."""
    recognise: Callable[[State], dict[str, Any] | None]
    """The constructor's arguments, read off names and shapes; None when it is another family.
    Tolerant of single missing keys, so that these can be named instead of "unknown network"."""
    build: Callable[..., nn.Module]
    """Makes the network from those arguments."""
    ports: Callable[..., Ports]
    """Typed inputs and outputs from the same arguments. Size multiples are found by probing."""
    rename: Callable[[State, Mapping[str, Any]], dict[str, Tensor]] = unchanged
    """Maps other naming schemes onto the names of the module that `build` makes."""
    assumed: tuple[str, ...] = ()
    """Arguments that no key or shape tells, so that the reference's value is taken."""
    part: Part = "generator"
    """What such a network is in a GAN."""
    caution: Callable[[Mapping[str, Any]], str | None] = no_caution
    """What people should know of a network with these arguments, in a sentence; None for most."""

    def describe(self, arguments: Mapping[str, Any]) -> str:
        """One line: the family, what was read off the file, and what had to be assumed."""
        read = ", ".join(f"{k} {v}" for k, v in arguments.items() if k not in self.assumed)
        guesses = ", ".join(f"{k} {arguments[k]}" for k in self.assumed if k in arguments)
        return f"{self.name}: {read}" + (f"; assumed: {guesses}" if guesses else "")


def expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every weight and statistic that `module` stores."""
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def skeleton(architecture: Architecture, arguments: Mapping[str, Any]) -> nn.Module:
    """The network without storage for its weights: enough to compare names and shapes."""
    with torch.device("meta"):
        return architecture.build(**arguments)


def fit(architecture: Architecture, arguments: Mapping[str, Any], state: State) -> float:
    """How well `state` fills the network: 1 when every name and shape is there and no other.

    Else the share of the weights, of both sides together, that they have in common.
    """
    wanted = expected_shapes(skeleton(architecture, arguments))
    renamed = architecture.rename(state, arguments)
    given = with_counters({k: tuple(v.shape) for k, v in renamed.items()}, wanted)
    return share_in_common(wanted, given)


def share_in_common(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Equal items over all items: 1 for equal mappings, 0 for strangers."""
    common = len(a.items() & b.items())
    return common / max(1, len(a) + len(b) - common)


def with_counters(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the batch counters it lacks.

    Files from before PyTorch 0.4.1 have no `num_batches_tracked`, and inference does not use it.
    """
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    return {**counters, **given}


def numbered(state: State, prefix: str = "") -> dict[int, str]:
    """For names such as `<prefix>7.weight` of a list of layers: {7: "<prefix>7"}, in order."""
    found = set()
    for name in state:
        if name.startswith(prefix):
            number = name[len(prefix) :].split(".")[0]
            if number.isdecimal():
                found.add(int(number))
    return {n: f"{prefix}{n}" for n in sorted(found)}


def convolutions(state: State, prefix: str = "") -> dict[int, Tensor]:
    """The 4-axis weights directly in a list of layers, by position."""
    weights = {n: state.get(f"{layer}.weight") for n, layer in numbered(state, prefix).items()}
    return {n: w for n, w in weights.items() if w is not None and w.dim() == 4}


def image_port(
    name: str, channels: int, size: tuple[int, int], range: tuple[float, float], *, batch: int = 1
) -> Port:
    """A batch of images, [N, C, H, W], of any height and width."""
    return Port(
        name, "image", "NCHW", (None, channels, None, None), (batch, channels, *size), range
    )


def super_resolution_ports(
    in_channels: int, out_channels: int, scale: int, bounds: tuple[float, float]
) -> Ports:
    """The ports of every upscaler: 80x80 in, `scale` times that out, one value range."""
    side = 80
    return (
        (image_port("low", in_channels, (side, side), bounds),),
        (image_port("high", out_channels, (scale * side, scale * side), bounds),),
    )
