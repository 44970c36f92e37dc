"""How far pictures are from their references. All take (N, C, H, W) scaled to [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from leangan.measure.signal import CAP, decibels


def psnr(a: Tensor, b: Tensor, peak: float = 1.0) -> float:
    """Peak signal to noise ratio in dB over all values.

    Args:
        a: any shape, values up to `peak`. Clip both sides first: what cannot be shown as a
            picture must not count.
        b: the same shape.
        peak: the largest value that a perfect picture can have.

    Returns:
        dB; 100 at most, which equal pictures get (JSON knows no infinity), -100 with NaN or Inf.
    """
    _same_shape(a, b)
    mse = float((a.double() - b.double()).square().mean())
    if mse == 0:
        return CAP
    return decibels(peak**2 / mse) if math.isfinite(mse) else -CAP


def rgb_to_y(rgb: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in studio range, 16/255 to 235/255, as super-resolution papers use it.

    Args:
        rgb: (N, 3, H, W) in [0, 1].

    Returns:
        (N, 1, H, W).
    """
    weights = rgb.new_tensor((65.481, 128.553, 24.966)) / 255
    return (rgb * weights[:, None, None]).sum(1, keepdim=True) + 16 / 255


def psnr_y(a: Tensor, b: Tensor, border: int) -> float:
    """PSNR of the luma, without `border` pixels at each side: the super-resolution convention.

    Args:
        a: (N, 3, H, W) in [0, 1]; (N, 1, H, W) is taken for luma as it is.
        b: the same shape.
        border: usually the scale; at most what leaves one pixel.
    """
    _same_shape(a, b)
    if 2 * border >= min(a.shape[-2:]):
        raise ValueError(f"a border of {border} leaves nothing of {tuple(a.shape)}")
    height, width = a.shape[-2:]
    inside = (..., slice(border, height - border), slice(border, width - border))
    a, b = (rgb_to_y(x) if x.shape[1] == 3 else x for x in (a, b))
    return psnr(a[inside], b[inside])


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity: Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 13(4), 2004.

    11x11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, mean over the window positions that lie
    inside the picture, over channels and batch. Pictures under 11 pixels get a smaller window.

    Returns:
        -1 to 1, 1 for equal pictures; -1 with NaN or Inf.
    """
    value = float(similarity(a.float(), b.float()).double().mean())
    return value if math.isfinite(value) else -1.0


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """The map that SSIM is the mean of; differentiable."""
    _same_shape(a, b)
    window = min(11, *a.shape[-2:])
    window -= 1 - window % 2
    steps = torch.arange(window, dtype=torch.float64) - window // 2
    line = torch.exp(-(steps**2) / (2 * 1.5**2))
    line = (line / line.sum()).float()
    channels = a.shape[1]

    def blur(x: Tensor) -> Tensor:  # the 2-D window is the product of two lines
        rows = line.to(x.device).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        columns = rows.transpose(2, 3)
        return F.conv2d(F.conv2d(x, rows, groups=channels), columns, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a**2
    variance_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return luminance * structure


def mean_shift(a: Tensor, b: Tensor) -> float:
    """Largest difference between the pictures' channel means, in 8-bit levels.

    It shows what PSNR hides: a whole picture that became darker, or tinted, by a little.

    Returns:
        0 to 255; 255 with NaN or Inf.
    """
    _same_shape(a, b)
    means = [x.double().mean((-2, -1)) for x in (a, b)]
    value = float((means[0] - means[1]).abs().max()) * 255
    return value if math.isfinite(value) else 255.0


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
