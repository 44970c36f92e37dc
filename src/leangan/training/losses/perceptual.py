"""Differences of what a trained network sees: features, and their Gram matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from leangan import zoo
from leangan.measure.perceptual import NETWORK, enlarged

_SMALL = 1e-10


class _Features(nn.Module):
    """The feature maps of the zoo's SqueezeNet 1.1, of pictures (N, 1 or 3, H, W) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = zoo.load_features(NETWORK).to(memory_format=torch.channels_last)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        # What the network sees may be rounded; lengths and differences of it are not.
        return [seen.float() for seen in self.network.to(x.device)(enlarged(x))]


def perceptual() -> Callable[[Tensor, Tensor], Tensor]:
    """Mean squared difference of features of unit length: LPIPS without its weights.

    Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric";
    Johnson et al. 2016 for training by it.

    Raises:
        LeanganError: the feature network cannot be fetched.
    """
    features = _Features()

    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            targets = features(wanted)
        found = features(made)
        with _exact(made):
            return torch.stack([_apart(a, b) for a, b in zip(found, targets, strict=True)]).mean()

    return loss


def style() -> Callable[[Tensor, Tensor], Tensor]:
    """Mean absolute difference of Gram matrices (Gatys et al. 2016): textures, wherever they are.

    Raises:
        LeanganError: the feature network cannot be fetched.
    """
    features = _Features()

    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            targets = features(wanted)
        found = features(made)
        with _exact(made):
            layers = [_gram_distance(a, b) for a, b in zip(found, targets, strict=True)]
            return torch.stack(layers).mean()

    return loss


def _exact(x: Tensor) -> torch.autocast:
    """Only the network may be rounded."""
    return torch.autocast(x.device.type, enabled=False)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared distance of features of unit length, as in measure/perceptual.py.

    Multiplied out, so that large maps are walked over once for each product. The small number
    gives it a slope where all features are zero.
    """
    aa, bb, ab = (torch.linalg.vecdot(x, y, dim=1) for x, y in ((a, a), (b, b), (a, b)))
    most_a, most_b = aa + _SMALL, bb + _SMALL
    return (aa / most_a + bb / most_b - 2 * ab / (most_a * most_b).sqrt()).mean()


def _gram_distance(a: Tensor, b: Tensor) -> Tensor:
    wanted = _gram(b)
    return (_gram(a) - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-8)


def _gram(features: Tensor) -> Tensor:
    """(N, C, C): the mean products of all pairs of channels."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]
