"""HiFi-GAN's generator: mel spectrogram, or the features of a text-to-speech model, to speech.

Kong, Kim, Bae: HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech
Synthesis, NeurIPS 2020.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, numbered
from leangan.generator import Port

Dilations = tuple[tuple[int, ...], ...]

_SLOPE = 0.1
_MELS = (80, 100, 128)
_V3_DILATIONS: Dilations = ((1, 2), (2, 6), (3, 12))


class ResBlock1(nn.Module):
    """Pairs of convolutions beside skips, the first of each pair dilated (V1 and V2)."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(width, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(_conv(width, kernel, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, T] to the same."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, _SLOPE)), _SLOPE))
        return x


class ResBlock2(nn.Module):
    """Dilated convolutions beside skips (V3, and the voices of Piper)."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(width, kernel, d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, T] to the same."""
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, _SLOPE))
        return x


def _conv(width: int, kernel: int, dilation: int) -> nn.Conv1d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv1d(width, width, kernel, dilation=dilation, padding=padding)


class HifiganGenerator(nn.Module):
    """[N, in_channels, T] to a waveform [N, 1, T * product of the rates] in [-1, 1].

    Args:
        in_channels: mel bands, or features.
        width: channels after the first convolution; halved by every upsampling.
        rates, up_kernels: strides and kernels of the transposed convolutions.
        kernels: of the residual blocks whose mean is taken after each upsampling.
        dilations: of each of these blocks.
        block: residual blocks of type 1 or 2.
        last_bias: whether the last convolution has a bias (a VITS decoder's has none).
    """

    def __init__(
        self,
        in_channels: int = 80,
        width: int = 512,
        rates: tuple[int, ...] = (8, 8, 2, 2),
        up_kernels: tuple[int, ...] = (16, 16, 4, 4),
        kernels: tuple[int, ...] = (3, 7, 11),
        dilations: Dilations = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        block: Literal[1, 2] = 1,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        self.per_level = len(kernels)
        self.conv_pre = nn.Conv1d(in_channels, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        kind = ResBlock1 if block == 1 else ResBlock2
        for rate, kernel in zip(rates, up_kernels, strict=True):
            width //= 2
            self.ups.append(
                nn.ConvTranspose1d(2 * width, width, kernel, rate, padding=(kernel - rate) // 2)
            )
            for k, d in zip(kernels, dilations, strict=True):
                self.resblocks.append(kind(width, k, d))
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3, bias=last_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Speak."""
        # The reference leaves out the slope here, and so takes PyTorch's default.
        return torch.tanh(self.conv_post(F.leaky_relu(self.body(x), 0.01)))

    def body(self, x: Tensor) -> Tensor:
        """[N, in_channels, T] to the features that the last convolution makes samples of."""
        x = self.conv_pre(x)
        for level, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, _SLOPE))
            first = level * self.per_level
            total = self.resblocks[first](x)
            for n in range(first + 1, first + self.per_level):
                total = total + self.resblocks[n](x)
            x = total / self.per_level
        return x


def recognise(state: State) -> dict[str, Any] | None:
    """HiFi-GAN's keys, with a last convolution to samples (an iSTFTNet's is to spectra)."""
    last, arguments = state.get("conv_post.weight"), read_arguments(state)
    if arguments is None or (last is not None and last.shape[0] != 1):
        return None
    return {**arguments, "last_bias": "conv_post.bias" in state}


def read_arguments(state: State) -> dict[str, Any] | None:
    """All arguments but those of the last layer; strides and dilations have to be assumed.

    In all published configurations a transposed convolution's kernel is twice its stride, and
    the dilations are (1, 3, 5) for blocks of type 1, ((1, 2), (2, 6), (3, 12)) for type 2.
    """
    first = state.get("conv_pre.weight")
    ups = [state.get(f"{layer}.weight") for layer in numbered(state, "ups.").values()]
    found = [up for up in ups if up is not None]
    blocks = numbered(state, "resblocks.")
    if first is None or first.dim() != 3 or not found or not blocks:
        return None
    per_level = (max(blocks) + 1) // len(ups)
    block = 2 if any(".convs." in name for name in state) else 1
    inner = "convs1" if block == 1 else "convs"
    kernels = []
    depths = []
    for n in range(per_level):
        layers = numbered(state, f"resblocks.{n}.{inner}.")
        weight = next(
            (state[f"{x}.weight"] for x in layers.values() if f"{x}.weight" in state), None
        )
        if weight is None:
            return None
        kernels.append(weight.shape[2])
        depths.append(max(layers) + 1)
    return {
        "in_channels": first.shape[1],
        "width": first.shape[0],
        "rates": tuple(up.shape[2] // 2 for up in found),
        "up_kernels": tuple(up.shape[2] for up in found),
        "kernels": tuple(kernels),
        "dilations": _usual_dilations(block, tuple(depths)),
        "block": block,
    }


def _usual_dilations(block: int, depths: tuple[int, ...]) -> Dilations:
    if block == 2 and depths == (2, 2, 2):
        return _V3_DILATIONS
    return tuple(tuple(range(1, 2 * depth, 2)) for depth in depths)


def ports(*, in_channels: int = 80, rates: tuple[int, ...] = (8, 8, 2, 2), **_: Any) -> Ports:
    """A hundred frames in, about a second of speech out."""
    frames = 100
    mel = in_channels in _MELS
    source = Port(
        "mel" if mel else "features",
        "mel" if mel else "feature",
        "NCT",
        (None, in_channels, None),
        (1, in_channels, frames),
    )
    speech = Port(
        "waveform", "waveform", "NCT", (None, 1, None), (1, 1, frames * prod(rates)), (-1.0, 1.0)
    )
    return (source,), (speech,)


HIFIGAN = Architecture(
    name="hifigan",
    summary="HiFi-GAN generator, mel or features to speech (Kong et al. 2020)",
    task="vocoder",
    recognise=recognise,
    build=HifiganGenerator,
    ports=ports,
    assumed=("rates", "dilations"),
)
