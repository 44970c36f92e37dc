"""Operators that move channels about: shuffles, concatenations, chunks, up and down sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern
from leangan.testing.patterns.plain import IMAGES, conv


class ShuffleMiddle(nn.Module):
    """SRGAN's tail: PixelShuffle and PReLU between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.last = conv(3, 10), conv(10, 32), conv(8, 3)
        self.slopes = nn.PReLU(8)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 2 H, 2 W)."""
        return self.last(self.slopes(F.pixel_shuffle(self.wide(F.relu(self.first(image))), 2)))


class ShuffleEnd(nn.Module):
    """SRVGG: PixelShuffle last, plus the picture enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 10), conv(10, 12), conv(12, 12)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 2 H, 2 W)."""
        x = F.relu(self.second(F.relu(self.first(image))))
        return F.pixel_shuffle(self.last(x), 2) + F.interpolate(image, scale_factor=2)


class UnshuffleStart(nn.Module):
    """PixelUnshuffle on the picture, PixelShuffle at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(12, 10), conv(10, 8), conv(8, 12)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W), H and W even."""
        x = F.relu(self.second(F.relu(self.first(F.pixel_unshuffle(image, 2)))))
        return F.pixel_shuffle(self.last(x), 2)


class UnshuffleMiddle(nn.Module):
    """PixelUnshuffle between convolutions, undone by view and permute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 6), conv(24, 20), conv(5, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W), H and W even."""
        x = F.relu(self.second(F.pixel_unshuffle(F.relu(self.first(image)), 2)))
        n, _, h, w = x.shape
        x = x.view(n, 5, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 5, 2 * h, 2 * w)
        return self.last(x)


class ShuffleUndone(nn.Module):
    """Enlarged and made small again: twice by operators, the second time to one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 20), conv(20, 4), conv(4, 9)
        self.last = conv(9, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.pixel_unshuffle(F.relu(F.pixel_shuffle(self.first(image), 2)), 2)
        x = F.pixel_unshuffle(torch.tanh(F.pixel_shuffle(self.second(x), 2)), 2)
        return self.last(F.relu(self.third(x)))


class UNet(nn.Module):
    """Two levels; each skip is concatenated to what came up from below."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 12, 4, 2, 1)
        self.norm, self.inner = nn.BatchNorm2d(12), conv(12, 14)
        self.up2, self.up2_norm = nn.ConvTranspose2d(26, 10, 4, 2, 1), nn.BatchNorm2d(10)
        self.up1 = nn.ConvTranspose2d(18, 3, 4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W), multiples of 4."""
        one = self.down1(image)
        two = self.norm(self.down2(F.leaky_relu(one, 0.2)))
        x = F.relu(self.inner(F.leaky_relu(two, 0.2)))
        x = self.up2_norm(self.up2(torch.cat([F.relu(two), x], dim=1)))
        return torch.tanh(self.up1(F.relu(torch.cat([x, one], dim=1))))


class DenseBlock(nn.Module):
    """RRDB: every convolution reads all that came before; residuals scaled by 0.2."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 8), conv(8, 3)
        self.grow = nn.ModuleList([conv(8 + 4 * i, 4) for i in range(3)])
        self.end = conv(20, 8)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        head = self.head(image)
        features = [head]
        for layer in self.grow:
            features.append(F.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        x = self.end(torch.cat(features, 1)) * 0.2 + head
        return self.last(x * 0.2 + head)


class GatedConv(nn.Module):
    """Free-form inpainting: half of the channels gate the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(4, 24), conv(12, 20), conv(10, 3)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 1, H, W) -> (N, 3, H, W)."""
        x = torch.cat([image, mask], dim=1)
        for layer in (self.first, self.second):
            features, gate = layer(x).chunk(2, dim=1)
            x = F.elu(features) * torch.sigmoid(gate)
        return self.last(x)


class Upsample(nn.Module):
    """Pooled down, enlarged by nearest neighbour and bilinearly, convolutions after each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.last = (
            conv(3, 12), conv(12, 10), conv(10, 8), conv(8, 3),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 2 H, 2 W), H and W even."""
        x = F.max_pool2d(F.relu(self.first(image)), 2)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.avg_pool2d(F.relu(self.second(x)), 3, 1, 1)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(F.relu(self.third(x)))


class SplitBranches(nn.Module):
    """An inception block: a part of the channels by slice to each branch, one left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.left, self.right = conv(3, 14), conv(4, 6), conv(5, 7, 1)
        self.mix, self.last = conv(18, 10, 1), conv(10, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        left, right, rest = x.split([4, 5, 5], dim=1)
        x = torch.cat([self.left(left), rest, F.relu(self.right(right))], dim=1)
        return self.last(F.relu(self.mix(x)))


_LAST = ("last.weight",)

PATTERNS = (
    Pattern("pixel-shuffle-middle", ShuffleMiddle, IMAGES, {"first.weight": 10, "wide.weight": 8,
            "slopes.weight": 8}, _LAST),
    Pattern("pixel-shuffle-end", ShuffleEnd, IMAGES, {"first.weight": 10, "second.weight": 12},
            _LAST),
    Pattern("pixel-unshuffle-start", UnshuffleStart, IMAGES, {"first.weight": 10,
            "second.weight": 8}, _LAST),
    Pattern("pixel-unshuffle-middle", UnshuffleMiddle, IMAGES, {"first.weight": 6,
            "second.weight": 5}, _LAST),
    Pattern("pixel-shuffle-undone", ShuffleUndone, IMAGES, {"first.weight": 5,
            "third.weight": 9}, ("second.weight", "last.weight")),
    Pattern("unet", UNet, IMAGES, {"down1.weight": 8, "down2.weight": 12, "inner.weight": 14,
            "up2.weight": 10}, ("up1.weight",)),
    Pattern("dense-block", DenseBlock, IMAGES, {"head.weight": 8, "end.weight": 8,
            "grow.2.weight": 4}, _LAST),
    Pattern("gated-conv", GatedConv,
            (((2, 3, 16, 16), (2, 1, 16, 16)), ((3, 3, 20, 24), (3, 1, 20, 24))),
            {"first.weight": 12, "second.weight": 10}, _LAST),
    Pattern("upsample", Upsample, IMAGES, {"first.weight": 12, "third.weight": 8}, _LAST),
    Pattern("split-branches", SplitBranches, IMAGES, {"left.weight": 6, "right.weight": 7,
            "mix.weight": 10}, _LAST),
)  # fmt: skip
