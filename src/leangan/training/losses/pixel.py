"""Differences of values, element by element."""

from __future__ import annotations

from torch import Tensor

_EPSILON = 1e-3
"""Of Charbonnier's loss: differences below it count squared, those above it plainly."""


def l1(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (made - wanted).abs().mean()


def l2(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference: what PSNR is made of."""
    return (made - wanted).square().mean()


def charbonnier(made: Tensor, wanted: Tensor) -> Tensor:
    """A smooth absolute difference (Charbonnier et al. 1994; Lai et al. 2017 for pictures)."""
    return ((made - wanted).square() + _EPSILON**2).sqrt().mean() - _EPSILON
