"""iSTFTNet: HiFi-GAN's first upsamplings, then an inverse short-time Fourier transform.

Kaneko, Tanaka, Kameoka, Seki: iSTFTNet: Fast and Lightweight Mel-Spectrogram Vocoder Incorporating
Inverse Short-Time Fourier Transform, ICASSP 2022. The layers at the highest rates, which cost a
vocoder most, are left out: the network puts out magnitudes and phases instead of samples.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures import hifigan
from leangan.architectures.base import Architecture, Ports, State
from leangan.architectures.hifigan import Dilations, HifiganGenerator

_HOPS = 4
"""Frames that cover a sample: a hop is a quarter of a window."""


class InverseStft(nn.Module):
    """Real, then imaginary parts [N, points + 2, frames] to a wave [N, 1, (frames - 1) * hop].

    `torch.istft` with a Hann window, as a transposed convolution without complex numbers.

    Args:
        points: of each frame, a multiple of 4.
    """

    basis: Tensor
    square: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        self.hop, self.margin = points // _HOPS, points // 2
        window = torch.hann_window(points, dtype=torch.float64)
        bins = torch.arange(points // 2 + 1)[:, None]
        angle = (bins * torch.arange(points)).remainder(points) * (2 * math.pi / points)
        # The bins between the first and the middle stand for their mirror images too.
        sides = torch.where((bins == 0) | (2 * bins == points), 1.0, 2.0) / points
        basis = torch.cat([sides * angle.cos(), -sides * angle.sin()]) * window
        self.register_buffer("basis", basis[:, None].float(), persistent=False)
        self.register_buffer("square", window.square()[None, None].float(), persistent=False)

    def forward(self, parts: Tensor) -> Tensor:
        """Add up the frames, each weighted by the window, and divide by what that sums to."""
        inside = slice(self.margin, -self.margin)
        ones = torch.ones_like(parts[:1, :1])
        wave = F.conv_transpose1d(parts, self.basis, stride=self.hop)
        overlap = F.conv_transpose1d(ones, self.square, stride=self.hop)
        return wave[..., inside] / overlap[..., inside]


class IstftGenerator(HifiganGenerator):
    """[N, in_channels, T] to a waveform [N, 1, T * product of the rates * points / 4].

    Args:
        in_channels: mel bands, or features.
        width: channels after the first convolution; halved by every upsampling.
        rates, up_kernels: strides and kernels of the transposed convolutions.
        kernels: of the residual blocks whose mean is taken after each upsampling.
        dilations: of each of these blocks.
        block: residual blocks of type 1 or 2.
        points: of the Fourier transform, a multiple of 4; a frame is a quarter of that later than
            the one before.
    """

    def __init__(
        self,
        in_channels: int = 80,
        width: int = 512,
        rates: tuple[int, ...] = (8, 8),
        up_kernels: tuple[int, ...] = (16, 16),
        kernels: tuple[int, ...] = (3, 7, 11),
        dilations: Dilations = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        block: Literal[1, 2] = 1,
        points: int = 16,
    ) -> None:
        super().__init__(in_channels, width, rates, up_kernels, kernels, dilations, block)
        self.bins = points // 2 + 1
        self.conv_post = nn.Conv1d(self.conv_post.in_channels, 2 * self.bins, 7, padding=3)
        self.transform = InverseStft(points)

    def forward(self, x: Tensor) -> Tensor:
        """Speak."""
        x = F.leaky_relu(self.body(x), 0.01)
        x = self.conv_post(F.pad(x, (1, 0), "reflect"))  # one frame more than hops
        # The usual code takes a sine of the phase, which keeps it within a radian.
        magnitude, phase = x[:, : self.bins].exp(), x[:, self.bins :].sin()
        return self.transform(torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1))


def recognise(state: State) -> dict[str, Any] | None:
    """HiFi-GAN's keys, with a last convolution to magnitudes and phases."""
    last = state.get("conv_post.weight")
    if last is None or last.shape[0] < 2 * _HOPS - 2 or (last.shape[0] - 2) % _HOPS:
        return None
    arguments = hifigan.read_arguments(state)
    if arguments is None:
        return None
    return {**arguments, "points": last.shape[0] - 2}


def ports(
    *, in_channels: int = 80, rates: tuple[int, ...] = (8, 8), points: int = 16, **_: Any
) -> Ports:
    """A hundred frames in, about a second of speech out."""
    return hifigan.ports(in_channels=in_channels, rates=(prod(rates), points // _HOPS))


ISTFTNET = Architecture(
    name="istftnet",
    summary="iSTFTNet generator, mel or features to speech by inverse STFT (Kaneko et al. 2022)",
    task="vocoder",
    recognise=recognise,
    build=IstftGenerator,
    ports=ports,
    assumed=("rates", "dilations"),
)
