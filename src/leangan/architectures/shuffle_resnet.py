"""A small image-to-image generator that works at a quarter of the resolution.

The picture's blocks of 4x4 pixels become channels (PixelUnshuffle), plain residual blocks change
them, and they become pixels again (PixelShuffle, Shi et al. 2016); the input is added. No norms
and no transposed convolutions: these are what a small network spends its time on. A gate and a
shift read off each channel's mean and deviation over the whole picture (Hu et al. 2018; Lee et al.
2019) take the place of what InstanceNorm knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.architectures.base import Architecture, Ports, State, image_port, numbered

_EPSILON = 1e-5
"""Added to variances, whose root is infinitely steep at 0."""


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity, gated by the whole picture where wanted."""

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(2 * width, 2 * width, 1) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        y = self.b(F.relu(self.a(x)))
        if self.gate is not None:
            mean = x.mean((2, 3), keepdim=True)
            variance = (x - mean).square().mean((2, 3), keepdim=True)
            seen = torch.cat([mean, (variance + _EPSILON).sqrt()], 1)
            scale, shift = self.gate(seen).chunk(2, 1)
            y = y * torch.sigmoid(scale) + shift
        return x + y


class ShuffleResNet(nn.Module):
    """Image [N, channels, H, W] to one of the same size; H and W multiples of `factor`.

    Args:
        channels: of the picture.
        width: channels inside.
        blocks: residual blocks.
        factor: by which the resolution is lower inside.
        gated: the numbers of the blocks that see the whole picture.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 7,
        factor: int = 4,
        gated: tuple[int, ...] = (1, 3, 5),
    ) -> None:
        super().__init__()
        self.factor = factor
        self.head = nn.Conv2d(channels * factor**2, width, 3, padding=1)
        inside = [Block(width, n in gated) for n in range(blocks)]
        self.body = nn.Sequential(*inside)
        self.tail = nn.Conv2d(width, channels * factor**2, 3, padding=1)
        for block in inside:  # near the identity: deep nets start well so
            block.b.weight.data.mul_(0.1)
        self.tail.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Change a batch of pictures."""
        y = self.body(F.relu(self.head(F.pixel_unshuffle(x, self.factor))))
        return x + F.pixel_shuffle(self.tail(y), self.factor)


def recognise(state: State) -> dict[str, Any] | None:
    """head, body.N.a, body.N.b, tail; the factor is told by the head's input."""
    head, tail = state.get("head.weight"), state.get("tail.weight")
    blocks = numbered(state, "body.")
    if head is None or tail is None or head.dim() != 4 or "body.0.a.weight" not in state:
        return None
    factor = next((f for f in (2, 4, 8) if head.shape[1] in (f * f, 3 * f * f)), None)
    if factor is None or tail.shape[0] != head.shape[1]:
        return None
    return {
        "channels": head.shape[1] // factor**2,
        "width": head.shape[0],
        "blocks": len(blocks),
        "factor": factor,
        "gated": tuple(n for n, name in blocks.items() if f"{name}.gate.weight" in state),
    }


def ports(*, channels: int = 3, **_: Any) -> Ports:
    """Pictures in [-1, 1] in and out, as the networks use that it learns from."""
    return (
        (image_port("image", channels, (256, 256), (-1.0, 1.0)),),
        (image_port("output", channels, (256, 256), (-1.0, 1.0)),),
    )


def caution(arguments: Mapping[str, Any]) -> str | None:
    """Its range is that of what it learned from, which no key tells."""
    return "It was made by distillation: its value range is that of its teacher."


SHUFFLE_RESNET = Architecture(
    name="shuffle-resnet",
    summary="small residual network between PixelUnshuffle and PixelShuffle, with global gates",
    task="translation",
    recognise=recognise,
    build=ShuffleResNet,
    ports=ports,
    caution=caution,
)
