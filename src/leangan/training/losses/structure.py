"""Structural similarity as a loss."""

from __future__ import annotations

from torch import Tensor

from leangan.measure.image import similarity


def ssim(made: Tensor, wanted: Tensor) -> Tensor:
    """1 - SSIM (Wang et al. 2004), of pictures (N, C, H, W) in [0, 1]: 0 for equal ones."""
    return 1 - similarity(made.float(), wanted.float()).mean()
