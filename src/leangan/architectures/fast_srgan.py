"""Fast-SRGAN: SRGAN's generator made small, with InstanceNorm.

After Ledig et al., CVPR 2017; the network of the Fast-SRGAN project, in its names.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from leangan.architectures.base import (
    Architecture,
    Ports,
    State,
    numbered,
    super_resolution_ports,
)


class ResidualBlock(nn.Module):
    """Convolution, norm, PReLU, convolution, norm beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.InstanceNorm2d(width)
        self.relu1 = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.InstanceNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        return x + self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))


class UpsampleBlock(nn.Module):
    """Double the size: convolution to 4 times the channels, PixelShuffle, PReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.phase_shift = nn.PixelShuffle(2)
        self.relu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to [N, width, 2H, 2W]."""
        return self.relu(self.phase_shift(self.conv(x)))


class FastSrganGenerator(nn.Module):
    """Image [N, in, H, W] to [N, out, scale H, scale W], both in [-1, 1].

    Args:
        in_channels, out_channels: of the images.
        width: channels inside.
        blocks: residual blocks.
        scale: a power of 2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 8,
        scale: int = 4,
    ) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.PReLU())
        self.stem = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.InstanceNorm2d(width)
        )
        self.upsampling = nn.Sequential(
            *(UpsampleBlock(width) for _ in range(int(math.log2(scale))))
        )
        self.head = nn.Sequential(nn.Conv2d(width, out_channels, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        first = self.neck(x)
        return self.head(self.upsampling(self.bottleneck(self.stem(first)) + first))


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off the neck, stem, bottleneck, upsampling and head."""
    first, last = state.get("neck.0.weight"), state.get("head.0.weight")
    blocks, steps = numbered(state, "stem."), numbered(state, "upsampling.")
    if first is None or last is None or not blocks or not steps:
        return None
    return {
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "width": first.shape[0],
        "blocks": max(blocks) + 1,
        "scale": 2 ** (max(steps) + 1),
    }


def ports(*, in_channels: int = 3, out_channels: int = 3, scale: int = 4, **_: Any) -> Ports:
    """Images in [-1, 1]."""
    return super_resolution_ports(in_channels, out_channels, scale, (-1.0, 1.0))


FAST_SRGAN = Architecture(
    name="fast-srgan",
    summary="Fast-SRGAN generator, super-resolution with InstanceNorm",
    task="super-resolution",
    recognise=recognise,
    build=FastSrganGenerator,
    ports=ports,
)
