"""The fully connected generator and discriminator of the first GANs.

Goodfellow et al.: Generative Adversarial Nets, NeurIPS 2014.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State
from leangan.generator import Port

Hidden = Literal["relu", "leakyrelu"]
Output = Literal["sigmoid", "tanh", "none"]

_KEY = re.compile(r"((?:\w+\.)*)(\d+)\.(weight|bias)")
_RANGE = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "none": None}


class Mlp(nn.Module):
    """Fully connected layers: [N, widths[0]] to [N, widths[-1]].

    Args:
        widths: features in, between the layers, and out.
        hidden: activation between the layers; LeakyReLU has the slope 0.2.
        output: activation at the end.
        shape: the picture [C, H, W] that the result is laid out as (a generator), or None.
        flatten: whether the input is a picture that is laid out as a vector first.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 256, 256, 784),
        hidden: Hidden = "relu",
        output: Output = "sigmoid",
        shape: tuple[int, int, int] | None = None,
        flatten: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.hidden = nn.ReLU() if hidden == "relu" else nn.LeakyReLU(0.2)
        self.output = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "none": nn.Identity}[output]()
        self.shape, self.flatten = shape, flatten

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        if self.flatten:
            x = torch.flatten(x, 1)
        for layer in self.layers[:-1]:
            x = self.hidden(layer(x))
        x = self.output(self.layers[-1](x))
        return x if self.shape is None else x.unflatten(1, self.shape)


def _widths(state: State) -> tuple[int, ...] | None:
    """Features in and out of a chain of Linear layers under one name; None for anything else."""
    matches = {name: _KEY.fullmatch(name) for name in state}
    if not matches or not all(matches.values()):
        return None
    if len({m[1] for m in matches.values() if m}) != 1:
        return None
    shapes = [state[name].shape for name in _in_order(state) if name.endswith(".weight")]
    if len(shapes) < 2 or any(len(s) != 2 for s in shapes):
        return None
    if any(a[0] != b[1] for a, b in pairwise(shapes)):
        return None
    return (shapes[0][1], *(s[0] for s in shapes))


def _in_order(state: State) -> list[str]:
    return sorted(state, key=lambda name: int(name.split(".")[-2]))


def recognise(state: State) -> dict[str, Any] | None:
    """A chain of Linear layers from a latent to a square picture, grey or RGB."""
    widths = _widths(state)
    shape = _square(widths[-1]) if widths else None
    if widths is None or shape is None or widths[0] >= widths[-1]:
        return None
    return {"widths": widths, "hidden": "relu", "output": "sigmoid", "shape": shape}


def recognise_discriminator(state: State) -> dict[str, Any] | None:
    """A chain of Linear layers from a square picture to one number."""
    widths = _widths(state)
    if widths is None or widths[-1] != 1 or _square(widths[0]) is None:
        return None
    return {"widths": widths, "hidden": "leakyrelu", "output": "sigmoid", "flatten": True}


def _square(features: int) -> tuple[int, int, int] | None:
    """The square picture of so many values; grey if that is possible, then RGB."""
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features and side >= 4:
            return channels, side, side
    return None


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Number the layers that hold weights, whatever lay between them."""
    if _widths(state) is None:
        return dict(state)
    places = sorted({int(name.split(".")[-2]) for name in state})
    renamed = {}
    for name, tensor in state.items():
        *_, place, leaf = name.split(".")
        renamed[f"layers.{places.index(int(place))}.{leaf}"] = tensor
    return renamed


def ports(
    *,
    widths: tuple[int, ...] = (64, 256, 256, 784),
    output: Output = "sigmoid",
    shape: tuple[int, int, int] | None = None,
    **_: Any,
) -> Ports:
    """Standard normal latents in, a picture (or features) out."""
    latent = Port("latent", "latent", "NC", (None, widths[0]), (16, widths[0]))
    if shape is None:
        result = Port("features", None, "NC", (None, widths[-1]), (16, widths[-1]), _RANGE[output])
    else:
        result = Port("image", "image", "NCHW", (None, *shape), (16, *shape), _RANGE[output])
    return (latent,), (result,)


def discriminator_ports(
    *, widths: tuple[int, ...] = (784, 256, 256, 1), output: Output = "sigmoid", **_: Any
) -> Ports:
    """Pictures in (their range is not in the file), one number out."""
    shape = _square(widths[0]) or (1, 1, widths[0])
    image = Port("image", "image", "NCHW", (None, *shape), (16, *shape))
    score = Port("score", "score", "NC", (None, 1), (16, 1), _RANGE[output])
    return (image,), (score,)


MLP = Architecture(
    name="mlp",
    summary="fully connected generator, noise to image (Goodfellow et al. 2014)",
    task="synthesis",
    recognise=recognise,
    build=Mlp,
    ports=ports,
    rename=rename,
    assumed=("hidden", "output", "shape"),
)

MLP_DISCRIMINATOR = Architecture(
    name="mlp-discriminator",
    summary="fully connected discriminator (Goodfellow et al. 2014)",
    task=None,
    recognise=recognise_discriminator,
    build=Mlp,
    ports=discriminator_ports,
    rename=rename,
    assumed=("hidden", "output"),
    part="discriminator",
)
