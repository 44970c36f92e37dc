"""SRGAN's generator, SRResNet.

Ledig et al.: Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network, CVPR 2017; in the naming block1 ... blockN of the best known PyTorch version.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, numbered, super_resolution_ports


class ResidualBlock(nn.Module):
    """Convolution, (norm,) PReLU, convolution, (norm) beside a skip."""

    def __init__(self, width: int, norm: Literal["batch", "none"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class UpsampleBlock(nn.Module):
    """Double the size: convolution to 4 times the channels, PixelShuffle, PReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to [N, width, 2H, 2W]."""
        return self.prelu(self.pixel_shuffle(self.conv(x)))


class SrganGenerator(nn.Module):
    """Image [N, in, H, W] to [N, out, scale H, scale W], both in [0, 1].

    Args:
        in_channels, out_channels: of the images.
        width: channels inside.
        blocks: residual blocks, 5 in the common version, 16 in the paper.
        scale: a power of 2.
        norm: BatchNorm in the residual blocks, or none.
        middle: what follows the convolution in front of the long skip.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 5,
        scale: int = 4,
        norm: Literal["batch", "none"] = "batch",
        middle: Literal["prelu", "batch"] = "prelu",
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.block1 = nn.Sequential(nn.Conv2d(in_channels, width, 9, padding=4), nn.PReLU())
        for n in range(blocks):
            self.add_module(f"block{n + 2}", ResidualBlock(width, norm))
        after = nn.PReLU() if middle == "prelu" else nn.BatchNorm2d(width)
        self.add_module(
            f"block{blocks + 2}",
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), after),
        )
        self.add_module(
            f"block{blocks + 3}",
            nn.Sequential(
                *(UpsampleBlock(width) for _ in range(int(math.log2(scale)))),
                nn.Conv2d(width, out_channels, 9, padding=4),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        first = self.block1(x)
        y = first
        for n in range(2, self.blocks + 3):
            y = self.get_submodule(f"block{n}")(y)
        y = self.get_submodule(f"block{self.blocks + 3}")(first + y)
        return (torch.tanh(y) + 1) / 2


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off the `blockN` keys."""
    first = state.get("block1.0.weight")
    if first is None or first.dim() != 4 or first.shape[2:] != (9, 9):
        return None
    blocks = max(numbered(state, "block")) - 3
    tail = f"block{blocks + 3}"
    steps = [n for n in numbered(state, f"{tail}.") if f"{tail}.{n}.conv.weight" in state]
    last = state.get(f"{tail}.{len(steps)}.weight")
    if blocks < 1 or last is None or "block2.conv1.weight" not in state:
        return None
    return {
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "width": first.shape[0],
        "blocks": blocks,
        "scale": 2 ** len(steps),
        "norm": "batch" if any(n.startswith("block2.bn") for n in state) else "none",
        "middle": "batch" if f"block{blocks + 2}.1.bias" in state else "prelu",
    }


def ports(*, in_channels: int = 3, out_channels: int = 3, scale: int = 4, **_: Any) -> Ports:
    """Images in [0, 1]; what is measured is 80x80 in."""
    return super_resolution_ports(in_channels, out_channels, scale, (0.0, 1.0))


SRGAN = Architecture(
    name="srgan",
    summary="SRGAN generator, super-resolution x2, x4, x8 (Ledig et al. 2017)",
    task="super-resolution",
    recognise=recognise,
    build=SrganGenerator,
    ports=ports,
)
