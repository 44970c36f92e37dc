"""SRVGGNetCompact, Real-ESRGAN's small network for video.

Wang, Xie, Dong, Shan: Real-ESRGAN, ICCV workshops 2021, and its later releases.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import (
    Architecture,
    Ports,
    State,
    convolutions,
    super_resolution_ports,
)

Activation = Literal["prelu", "relu", "leakyrelu"]


class SrvggNet(nn.Module):
    """Image [N, C, H, W] to [N, C, scale H, scale W], in [0, 1].

    Args:
        channels: of the images.
        width: channels inside ("num_feat").
        convs: convolutions between the first and the last ("num_conv").
        scale: of the PixelShuffle; the input resized by nearest is added to the result.
        activation: after every convolution but the last.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        convs: int = 16,
        scale: int = 4,
        activation: Activation = "prelu",
    ) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for n in range(convs + 1):
            layers += [
                nn.Conv2d(width if n else channels, width, 3, padding=1),
                _activation(activation, width),
            ]
        layers.append(nn.Conv2d(width, channels * scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        y = F.pixel_shuffle(self.body(x), self.scale)
        return y + F.interpolate(x, scale_factor=self.scale, mode="nearest")


def _activation(kind: Activation, width: int) -> nn.Module:
    if kind == "prelu":
        return nn.PReLU(width)
    return nn.ReLU() if kind == "relu" else nn.LeakyReLU(0.1)


def recognise(state: State) -> dict[str, Any] | None:
    """Every other layer of `body` is a 3x3 convolution; the last one's channels give the scale."""
    weights = convolutions(state, "body.")
    if len(weights) < 2 or any(n % 2 or w.shape[2:] != (3, 3) for n, w in weights.items()):
        return None
    first, last = weights[min(weights)], weights[max(weights)]
    channels = first.shape[1]
    scale = math.isqrt(last.shape[0] // channels)
    if last.shape[0] != channels * scale**2:
        return None
    # ReLU and LeakyReLU leave no trace in the file.
    prelu = any(t.dim() == 1 and n.endswith(".weight") for n, t in state.items())
    return {
        "channels": channels,
        "width": first.shape[0],
        "convs": max(weights) // 2 - 1,
        "scale": scale,
        "activation": "prelu" if prelu else "relu",
    }


def ports(*, channels: int = 3, scale: int = 4, **_: Any) -> Ports:
    """Images in [0, 1]."""
    return super_resolution_ports(channels, channels, scale, (0.0, 1.0))


SRVGG = Architecture(
    name="srvgg",
    summary="SRVGGNetCompact of Real-ESRGAN, super-resolution for video (Wang et al. 2021)",
    task="super-resolution",
    recognise=recognise,
    build=SrvggNet,
    ports=ports,
)
