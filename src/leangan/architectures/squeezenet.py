"""SqueezeNet 1.1 as a feature network for perceptual distances; no generator.

Iandola et al.: SqueezeNet, 2016; as a perceptual metric: Zhang, Isola, Efros, Shechtman, Wang:
The Unreasonable Effectiveness of Deep Features, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, image_port
from leangan.generator import Port

STAGES = ((0, 1), (2, 4), (5, 7), (8, 9), (10, 10), (11, 11), (12, 12))
"""First and last layer of each stage whose output is a feature map."""
CHANNELS = (64, 128, 256, 384, 384, 512, 512)
"""Channels of each feature map."""


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to [N, 2 expand, H, W]."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNetFeatures(nn.Module):
    """Normalized RGB image [N, 3, H, W] to seven feature maps, H and W at least 17.

    The values that the network expects depend on who trained it: torchvision's wants
    (RGB in [0, 1] - mean) / deviation of ImageNet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature map after each of `STAGES`."""
        maps = []
        for first, last in STAGES:
            for n in range(first, last + 1):
                x = self.features[n](x)
            maps.append(x)
        return tuple(maps)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def recognise(state: State) -> dict[str, Any] | None:
    """SqueezeNet 1.1 has no arguments; 1.0 has another first convolution."""
    first = state.get("features.0.weight")
    if first is None or tuple(first.shape) != (64, 3, 3, 3):
        return None
    return {} if "features.3.squeeze.weight" in state else None


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Leave out the classifier, which is no part of the feature network."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}


def ports(**_: Any) -> Ports:
    """A normalized image in, seven feature maps out."""
    image = image_port("image", 3, (224, 224), (-2.2, 2.7))
    sides = (111, 55, 27, 13, 13, 13, 13)
    maps = tuple(
        Port(f"features{n}", "feature", "NCHW", (None, c, None, None), (1, c, side, side))
        for n, (c, side) in enumerate(zip(CHANNELS, sides, strict=True))
    )
    return (image,), maps


SQUEEZENET = Architecture(
    name="squeezenet1.1",
    summary="SqueezeNet 1.1 features for perceptual distances (Iandola et al. 2016)",
    task=None,
    recognise=recognise,
    build=SqueezeNetFeatures,
    ports=ports,
    rename=rename,
    part="features",
)
