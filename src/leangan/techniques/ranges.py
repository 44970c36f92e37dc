"""Which value range an 8-bit number should cover, chosen from what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_BINS = 2048
_SHRINKS = np.linspace(1.0, 0.4, 31)


@dataclass
class RangeObserver:
    """Sees the values of one tensor, batch after batch, and chooses the range to quantize.

    Keeps the exact minimum and maximum, and an evenly spaced subset of the values of each batch
    for the histogram, so that thousands of large feature maps cost little.
    """

    low: float = float("inf")
    high: float = float("-inf")
    kept: list[np.ndarray] = field(default_factory=list)

    def see(self, x: Tensor, subset: int = 1 << 16) -> None:
        """Take in one float tensor of any shape."""
        self.low = min(self.low, float(x.min()))
        self.high = max(self.high, float(x.max()))
        flat = x.detach().reshape(-1)
        self.kept.append(flat[:: max(1, flat.numel() // subset)].numpy().astype(np.float32))

    def minmax(self) -> tuple[float, float]:
        """All that was seen, and zero, which padding needs to be exact."""
        return min(self.low, 0.0), max(self.high, 0.0)

    def mse(self, levels: int) -> tuple[float, float]:
        """The range with the smallest mean squared error for `levels` evenly spaced levels.

        Both ends are searched one after the other, from the full range inwards: rounding error
        shrinks with the range while clipping error grows. Never wider than `minmax`.
        """
        low, high = self.minmax()
        values = np.concatenate(self.kept)
        counts, edges = np.histogram(values, _BINS, (low, high if high > low else low + 1))
        centres = (edges[1:] + edges[:-1]) / 2

        def error(a: float, b: float) -> float:
            step = max(b - a, 1e-12) / (levels - 1)
            clipped = np.clip(centres, a, b)
            # Rounding error is uniform within a step; a bin as wide as a step has no room for it.
            return float((counts * ((centres - clipped) ** 2 + step**2 / 12)).sum())

        for _ in range(2):
            high = min((high * s for s in _SHRINKS), key=lambda b: error(low, b))
            low = min((low * s for s in _SHRINKS), key=lambda a: error(a, high))
        return low, high


def affine_u8(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the 8-bit affine code that covers [low, high]; zero is exact."""
    scale = max(high - low, 1e-8) / 255
    return scale, int(min(255, max(0, round(-low / scale))))


def symmetric_scales(weight: Tensor, axis: int | None, bits: int = 8) -> Tensor:
    """Per-channel (or, with `axis` None, per-tensor) scales with the least squared error.

    Args:
        weight: any shape.
        axis: the output-channel axis.
        bits: the code runs from -(2^(bits-1) - 1) to 2^(bits-1) - 1.

    Returns:
        float32 scales, one per channel along `axis` (one element when None), all positive.
    """
    top = 2 ** (bits - 1) - 1
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
    rows = rows.to(torch.float32)
    full = rows.abs().amax(1).clamp_min(1e-12) / top
    best, least = full, torch.full_like(full, float("inf"))
    for shrink in torch.linspace(1.0, 0.7, 13).tolist():
        scale = full * shrink
        code = (rows / scale[:, None]).round().clamp(-top, top)
        error = (code * scale[:, None] - rows).square().sum(1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
