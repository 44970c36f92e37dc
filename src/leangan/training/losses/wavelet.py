"""High bands of a wavelet transform: edges and grain, without what is flat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def wavelet(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the three high bands of a Haar transform, at two scales.

    As MobileStyleGAN (Belousov 2021) compares pictures.

    Args:
        made: (N, C, H, W), at least 4 pixels a side.
        wanted: the same shape.
    """
    difference = made - wanted  # the transform is linear
    total = difference.new_zeros(())
    for _ in range(2):
        height, width = (n // 2 * 2 for n in difference.shape[2:])
        a, b, c, d = F.pixel_unshuffle(difference[..., :height, :width], 2).unflatten(
            1, (-1, 4)
        ).unbind(2)  # fmt: skip
        high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d]) / 4
        total = total + high.abs().mean()
        difference = (a + b + c + d) / 4
    return total / 2
