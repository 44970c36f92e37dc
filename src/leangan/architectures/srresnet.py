"""The modified SRResNet of BasicSR: no BatchNorm, and a bilinear image to add to.

After Ledig et al., CVPR 2017; the generator that BasicSR trains SRGAN with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import (
    Architecture,
    Ports,
    State,
    numbered,
    super_resolution_ports,
)

_OLD_NAMES = {"recon_trunk.": "body.", "HRconv.": "conv_hr."}


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        return x + self.conv2(F.relu(self.conv1(x)))


class SrResNet(nn.Module):
    """Image [N, in, H, W] to [N, out, scale H, scale W], both in [0, 1].

    Args:
        in_channels, out_channels: of the images, equal.
        width: channels inside.
        blocks: residual blocks.
        scale: 2 or 3 (one PixelShuffle) or 4 (two).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 16,
        scale: int = 4,
    ) -> None:
        super().__init__()
        self.scale = scale
        step = 2 if scale == 4 else scale
        self.conv_first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.upconv1 = nn.Conv2d(width, width * step**2, 3, padding=1)
        self.upconv2 = nn.Conv2d(width, width * 4, 3, padding=1) if scale == 4 else None
        self.pixel_shuffle = nn.PixelShuffle(step)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        y = self.body(self.lrelu(self.conv_first(x)))
        y = self.lrelu(self.pixel_shuffle(self.upconv1(y)))
        if self.upconv2 is not None:
            y = self.lrelu(self.pixel_shuffle(self.upconv2(y)))
        y = self.conv_last(self.lrelu(self.conv_hr(y)))
        return y + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off the keys, in new or old names."""
    state = rename(state, {})
    first, last = state.get("conv_first.weight"), state.get("conv_last.weight")
    up, blocks = state.get("upconv1.weight"), numbered(state, "body.")
    if first is None or last is None or up is None or not blocks:
        return None
    if not any(f"body.{n}.conv1.weight" in state for n in blocks):
        return None
    step = math.isqrt(up.shape[0] // up.shape[1])
    return {
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "width": first.shape[0],
        "blocks": max(blocks) + 1,
        "scale": 4 if any(n.startswith("upconv2.") for n in state) else step,
    }


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """From the names of before 2020 to the present ones."""
    result = {}
    for name, tensor in state.items():
        for old, new in _OLD_NAMES.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        result[name] = tensor
    return result


def ports(*, in_channels: int = 3, out_channels: int = 3, scale: int = 4, **_: Any) -> Ports:
    """Images in [0, 1]."""
    return super_resolution_ports(in_channels, out_channels, scale, (0.0, 1.0))


SRRESNET = Architecture(
    name="srresnet",
    summary="SRResNet without BatchNorm, super-resolution x2, x3, x4 (BasicSR)",
    task="super-resolution",
    recognise=recognise,
    build=SrResNet,
    ports=ports,
    rename=rename,
)
