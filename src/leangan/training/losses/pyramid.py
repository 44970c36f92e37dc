"""Differences at several resolutions: tones and colours count, whatever the grain on them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from leangan.training.losses.pixel import charbonnier

_LEVELS = 4


def pyramid(made: Tensor, wanted: Tensor) -> Tensor:
    """Charbonnier's loss of the pictures and of their averages over 2x2, 4x4 and 8x8 pixels.

    A network with film grain or other noise of its own cannot be followed pixel by pixel, and a
    student's whole loss is then that noise; averages are what it can learn. Losses at several
    resolutions are Mathieu et al.'s (2016) and LapSRN's (Lai et al. 2017).

    Args:
        made: (N, C, H, W) in [0, 1], at least 8 pixels a side.
        wanted: the same shape and range.
    """
    total = charbonnier(made, wanted)
    for _ in range(_LEVELS - 1):
        made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
        total = total + charbonnier(made, wanted)
    return total / _LEVELS
