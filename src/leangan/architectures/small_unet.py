"""A small U-Net for image translation: plain convolutions, shuffles up, no norms.

Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, with strides in place of pooling and PixelShuffle
(Shi et al. 2016) in place of transposed convolutions; the input is added. Most of its work is done
at low resolution, and its skips keep the edges.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.architectures.base import Architecture, State, numbered
from leangan.architectures.shuffle_resnet import Block, caution, ports


class SmallUnet(nn.Module):
    """Image [N, channels, H, W] to one of the same size; H and W multiples of 2**levels.

    Args:
        channels: of the picture.
        widths: channels at each resolution, the highest first; one more than there are levels.
        blocks: residual blocks at the lowest resolution.
    """

    def __init__(
        self, channels: int = 3, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 4
    ) -> None:
        super().__init__()
        levels = list(pairwise(widths))
        self.head = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in levels)
        inside = [Block(widths[-1], gated=False) for _ in range(blocks)]
        self.body = nn.Sequential(*inside)
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 3, padding=1) for a, b in levels)
        self.joins = nn.ModuleList(nn.Conv2d(2 * a, a, 3, padding=1) for a, _ in levels)
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1)
        for layer in (*(block.b for block in inside), self.tail):  # near the identity
            layer.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Change a batch of pictures."""
        y = F.relu(self.head(x))
        skips = []
        for down in self.downs:
            skips.append(y)
            y = F.relu(down(y))
        y = self.body(y)
        for level in reversed(range(len(skips))):
            y = F.relu(F.pixel_shuffle(self.ups[level](y), 2))
            y = F.relu(self.joins[level](torch.cat([skips[level], y], 1)))
        return x + self.tail(y)


def recognise(state: State) -> dict[str, Any] | None:
    """head, downs.N, body.N.a, body.N.b, ups.N, joins.N, tail."""
    head = state.get("head.weight")
    downs = [state.get(f"{layer}.weight") for layer in numbered(state, "downs.").values()]
    found = [down for down in downs if down is not None]
    if head is None or head.dim() != 4 or not found or "joins.0.weight" not in state:
        return None
    return {
        "channels": head.shape[1],
        "widths": (head.shape[0], *(down.shape[0] for down in found)),
        "blocks": len(numbered(state, "body.")),
    }


SMALL_UNET = Architecture(
    name="small-unet",
    summary="small U-Net of plain convolutions and shuffles, no norms (Ronneberger et al. 2015)",
    task="translation",
    recognise=recognise,
    build=SmallUnet,
    ports=ports,
    caution=caution,
)
