"""Perceptual distance between pictures: how far apart a trained network sees them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from leangan.errors import LeanganError

NETWORK = "squeezenet1.1"
SMALLEST = 33
"""Pixels a side that the feature network needs; smaller pictures are enlarged."""

Features = Callable[[Tensor], Sequence[Tensor]]
"""Takes (N, 3, H, W) in [0, 1] and returns the feature maps of several layers."""


def perceptual_distance(a: Tensor, b: Tensor, network: Features) -> float:
    """The unweighted form of LPIPS (Zhang et al., CVPR 2018) over the features of `network`.

    Each layer's features are scaled to unit length over the channels; the squared difference,
    summed over channels, is averaged over positions and layers.

    Args:
        a: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        b: the same shape.
        network: the feature network, see `load_network`.

    Returns:
        0 for equal pictures; 2 is the most for features that are not negative, and what a
        picture with NaN or Inf gets.
    """
    with torch.no_grad():
        layers = [
            _unit(map_a) - _unit(map_b)
            for map_a, map_b in zip(network(enlarged(a)), network(enlarged(b)), strict=True)
        ]
        value = math.fsum(float(d.square().sum(1).mean()) for d in layers) / len(layers)
    return value if math.isfinite(value) else 2.0


def load_network() -> Features | None:
    """The feature network of the zoo, kept for the life of the process; None without it."""
    return _load()[0]


def missing() -> str | None:
    """Why there is no perceptual distance here, in a sentence; None when there is one."""
    return _load()[1]


@functools.cache
def _load() -> tuple[Features | None, str | None]:
    from leangan.zoo import load_features

    try:
        return load_features(NETWORK), None
    except LeanganError as error:  # offline, or no such package in the user's index
        return None, f"There is no perceptual distance, because {NETWORK} is missing. {error}"


def enlarged(x: Tensor) -> Tensor:
    """(N, 3, H, W) of a grey or coloured picture, large enough for the network."""
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    height, width = x.shape[-2:]
    if min(height, width) < SMALLEST:
        size = (max(height, SMALLEST), max(width, SMALLEST))
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return x


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
