"""Norms of every kind, slopes, and norms whose scale another network gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern
from leangan.testing.patterns.plain import IMAGES, conv


class Normed(nn.Module):
    """Convolution, norm, activation, twice; with reflected borders as in CycleGAN."""

    def __init__(self, one: nn.Module, other: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, bias=bias)
        self.second = nn.Conv2d(12, 8, 3, bias=bias)
        self.one, self.other, self.last = one, other, conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.one(self.first(F.pad(image, [1, 1, 1, 1], "reflect"))))
        x = F.relu(self.other(self.second(F.pad(x, [1, 1, 1, 1], "reflect"))))
        return torch.tanh(self.last(x))


class NormFirst(nn.Module):
    """Norm and activation before the convolution: nothing to fold the norm into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 12), conv(12, 12), conv(12, 3)
        self.one, self.other = nn.BatchNorm2d(12), nn.BatchNorm2d(12)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = self.first(image)
        x = x + self.second(F.relu(self.one(x)))
        return self.last(F.relu(self.other(x)))


class ChannelsLast(nn.Module):
    """ConvNeXt's block: depthwise, LayerNorm over the channels, two Linear layers, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.deep, self.norm = conv(3, 10), conv(10, 10, 5, groups=10), nn.LayerNorm(10)
        self.wide, self.narrow, self.last = nn.Linear(10, 20), nn.Linear(20, 10), conv(10, 3)
        self.gamma = nn.Parameter(torch.rand(10))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = self.head(image)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(F.gelu(self.wide(y)))
        return self.last(x + y.permute(0, 3, 1, 2))


class Slopes(nn.Module):
    """PReLU with one slope for all, and with one for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 12), conv(12, 10), conv(10, 3)
        self.one, self.many = nn.PReLU(), nn.PReLU(10)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return self.last(self.many(self.second(self.one(self.first(image)))))


class PixelNorm(nn.Module):
    """Progressive GAN: each pixel divided by the length of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 12), conv(12, 10), conv(10, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = image
        for layer in (self.first, self.second):
            x = F.leaky_relu(layer(x), 0.2)
            x = x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)
        return self.last(x)


class Spade(nn.Module):
    """GauGAN: the norm's scale and shift are maps made of the label map."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm, self.middle = conv(3, 12), nn.InstanceNorm2d(12), conv(12, 10)
        self.shared, self.gamma, self.beta = conv(4, 9), conv(9, 12), conv(9, 12)
        self.batch, self.last = nn.BatchNorm2d(10, affine=False), conv(10, 3)

    def forward(self, image: Tensor, segments: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 4, H, W) -> (N, 3, H, W)."""
        labels = F.relu(self.shared(segments))
        x = self.norm(self.head(image)) * (1 + self.gamma(labels)) + self.beta(labels)
        return self.last(self.batch(F.leaky_relu(self.middle(x), 0.2)))


class AdaIN(nn.Module):
    """StyleGAN: one Linear gives scale and shift in its two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(5, 9), nn.ReLU())
        self.head, self.affine, self.norm = conv(3, 12), nn.Linear(9, 24), nn.InstanceNorm2d(12)
        self.middle, self.last = conv(12, 10), conv(10, 3)
        self.second = nn.Linear(9, 20)

    def forward(self, image: Tensor, latent: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 5) -> (N, 3, H, W)."""
        style = self.mapping(latent)
        scale, shift = self.affine(style).chunk(2, dim=1)
        x = self.norm(self.head(image)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        x = self.middle(F.relu(x))
        # The same by hand, with statistics as means.
        mean = x.mean(dim=(2, 3), keepdim=True)
        deviation = (x.var(dim=(2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        scale, shift = self.second(style).view(-1, 2, 10, 1, 1).unbind(1)
        return self.last(F.relu((x - mean) / deviation * scale + shift))


def _batch() -> nn.Module:
    return Normed(nn.BatchNorm2d(12), nn.BatchNorm2d(8), bias=False)


def _instance() -> nn.Module:
    return Normed(nn.InstanceNorm2d(12, affine=True), nn.InstanceNorm2d(8))


def _tracked() -> nn.Module:
    tracked = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
    return Normed(tracked, nn.InstanceNorm2d(8, track_running_stats=True))


def _group() -> nn.Module:
    return Normed(nn.GroupNorm(4, 12), nn.GroupNorm(2, 8, affine=False))


def _layer() -> nn.Module:
    return Normed(nn.GroupNorm(1, 12), nn.GroupNorm(8, 8))


_NORMED = {"first.weight": 12, "second.weight": 8}
_STYLED = (((2, 3, 16, 16), (2, 5)), ((3, 3, 20, 24), (3, 5)))
_LAST = ("last.weight",)

PATTERNS = (
    Pattern("batch-norm", _batch, IMAGES, _NORMED, _LAST),
    Pattern("batch-norm-first", NormFirst, IMAGES, {"first.weight": 12, "one.weight": 12}, _LAST),
    Pattern("instance-norm", _instance, IMAGES, _NORMED, _LAST),
    Pattern("instance-norm-tracked", _tracked, IMAGES, _NORMED, _LAST),
    Pattern("group-norm", _group, IMAGES, {}, _LAST),
    Pattern("group-norm-of-one", _layer, IMAGES, _NORMED, _LAST),
    Pattern("layer-norm-channels-last", ChannelsLast, IMAGES,
            {"head.weight": 10, "gamma": 10, "wide.weight": 20}, _LAST),
    Pattern("prelu", Slopes, IMAGES, {"first.weight": 12, "many.weight": 10}, _LAST),
    Pattern("pixel-norm", PixelNorm, IMAGES, {"first.weight": 12, "second.weight": 10}, _LAST),
    Pattern("spade", Spade, (((2, 3, 16, 16), (2, 4, 16, 16)), ((3, 3, 20, 24), (3, 4, 20, 24))),
            {"head.weight": 12, "beta.weight": 12, "shared.weight": 9, "middle.weight": 10},
            _LAST),
    Pattern("adain", AdaIN, _STYLED, {"head.weight": 12, "affine.weight": 12,
            "second.weight": 10, "mapping.0.weight": 9}, _LAST),
)  # fmt: skip
