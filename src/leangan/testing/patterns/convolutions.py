"""Transposed, grouped and depthwise convolutions, and heads that make a map of a latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern
from leangan.testing.patterns.plain import IMAGES, conv

SIGNALS = (((2, 4, 20),), ((3, 4, 28),))


class LinearHead(nn.Module):
    """DCGAN's other head: each channel is 16 rows of the Linear, and its size a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 8 * 16)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 10, 4, 2, 1)
        self.last = nn.ConvTranspose2d(10, 3, 4, 2, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 6) -> (N, 3, 16, 16)."""
        x = F.relu(self.norm(self.head(latent).view(-1, 8, 4, 4)))
        return torch.tanh(self.last(F.relu(self.up(x))))


class LatentTransposed(nn.Module):
    """DCGAN: the latent is a map of one pixel; norms without convolution biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(6, 12, 4, 1, 0, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 6, 1, 1) -> (N, 3, 16, 16)."""
        return self.layers(latent)


class Transposed1d(nn.Module):
    """Up by 4 in time, as in a vocoder."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.up = nn.Conv1d(4, 12, 5, padding=2), nn.ConvTranspose1d(12, 8, 8, 4, 2)
        self.post = nn.Conv1d(8, 1, 5, padding=2)

    def forward(self, mel: Tensor) -> Tensor:
        """(N, 4, T) -> (N, 1, 4 T)."""
        return torch.tanh(self.post(F.leaky_relu(self.up(F.leaky_relu(self.pre(mel), 0.1)), 0.1)))


class Transposed2d(nn.Module):
    """Down by 2, up by 2, with an output padding."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 12, 3, 2, 1)
        self.up = nn.ConvTranspose2d(12, 10, 3, 2, 1, output_padding=1)
        self.last = conv(10, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return self.last(F.relu(self.up(F.relu(self.down(image)))))


class Grouped(nn.Module):
    """Groups shrink alike, or whole ones go; in a plain and in a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = conv(3, 12), conv(12, 16, groups=4)
        self.up = nn.ConvTranspose2d(16, 12, 4, 2, 1, groups=2)
        self.last = conv(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 2 H, 2 W)."""
        x = F.relu(self.grouped(F.relu(self.first(image))))
        return self.last(F.relu(self.up(x)))


class Depthwise1d(nn.Module):
    """1x1, depthwise and 1x1 in time; the depthwise one has two outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv1d(4, 10, 1), nn.Conv1d(10, 20, 5, padding=2, groups=10)
        self.up = nn.ConvTranspose1d(20, 20, 4, 2, 1, groups=20)
        self.narrow = nn.Conv1d(20, 4, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """(N, 4, T) -> (N, 4, 2 T)."""
        return self.narrow(F.relu(self.up(F.relu(self.deep(F.relu(self.wide(mel)))))))


class Mobile(nn.Module):
    """The mobile block: 1x1 wide, depthwise 3x3, 1x1 narrow, in a residual; ends in one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.wide, self.deep = conv(3, 8), conv(8, 16, 1), conv(16, 16, groups=16)
        self.narrow, self.last = conv(16, 8, 1), conv(8, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1, H, W)."""
        x = self.head(image)
        x = x + self.narrow(F.relu6(self.norm(self.deep(F.relu6(self.wide(x))))))
        return self.last(x)


class Multiplier(nn.Module):
    """A depthwise convolution on a picture with three outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.deep, self.last = conv(3, 6), conv(6, 18, groups=6), conv(18, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return self.last(F.relu(self.deep(F.relu(self.head(image)))))


class DepthwiseOnInput(nn.Module):
    """A depthwise convolution on the picture itself: nothing of it can go."""

    def __init__(self) -> None:
        super().__init__()
        self.blur, self.first, self.last = conv(3, 3, groups=3), conv(3, 10), conv(10, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return self.last(F.relu(self.first(self.blur(image))))


class ChannelShuffle(nn.Module):
    """ShuffleNet: 1x1 in groups, channels dealt out anew, depthwise, 1x1 in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.first = conv(3, 12), conv(12, 12, 1, groups=3)
        self.deep = conv(12, 12, groups=12)
        self.second, self.last = conv(12, 12, 1, groups=3), conv(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        y = F.relu(self.first(x))
        n, c, h, w = y.shape
        y = y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x + self.second(self.deep(y)))


class Volume(nn.Module):
    """3-D convolutions, as for video."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(2, 8, 3, padding=1), nn.Conv3d(8, 6, 1)
        self.last = nn.ConvTranspose3d(6, 2, (1, 2, 2), (1, 2, 2))

    def forward(self, video: Tensor) -> Tensor:
        """(N, 2, T, H, W) -> (N, 2, T, 2 H, 2 W)."""
        return self.last(F.relu(self.second(F.relu(self.first(video)))))


LATENTS = (((2, 6),), ((3, 6),))

PATTERNS = (
    Pattern("linear-view-head", LinearHead, LATENTS, {"head.weight": 8, "up.weight": 10},
            ("last.weight",)),
    Pattern("latent-transposed", LatentTransposed, (((2, 6, 1, 1),), ((3, 6, 1, 1),)),
            {"layers.0.weight": 12, "layers.3.weight": 8}, ("layers.6.weight",)),
    Pattern("transposed-1d", Transposed1d, SIGNALS, {"pre.weight": 12, "up.weight": 8},
            ("post.weight",)),
    Pattern("transposed-2d", Transposed2d, IMAGES, {"down.weight": 12, "up.weight": 10},
            ("last.weight",)),
    Pattern("grouped", Grouped, IMAGES, {}, ("last.weight",)),
    Pattern("depthwise-1d", Depthwise1d, SIGNALS, {"wide.weight": 10, "deep.weight": 10},
            ("narrow.weight",)),
    Pattern("mobile-block", Mobile, IMAGES, {"head.weight": 8, "wide.weight": 16,
            "deep.weight": 16}, ("last.weight",)),
    Pattern("depthwise-multiplier", Multiplier, IMAGES, {"head.weight": 6, "deep.weight": 6},
            ("last.weight",)),
    Pattern("depthwise-on-input", DepthwiseOnInput, IMAGES, {"first.weight": 10},
            ("blur.weight", "last.weight")),
    Pattern("channel-shuffle", ChannelShuffle, IMAGES, {}, ("last.weight",)),
    Pattern("volume", Volume, (((2, 2, 4, 8, 8),), ((3, 2, 4, 6, 10),)),
            {"first.weight": 8, "second.weight": 6}, ("last.weight",)),
)  # fmt: skip
