"""Which value range the codes of a tensor should cover, chosen from what was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_BINS = 2048
_SHRINKS = np.linspace(1.0, 0.4, 31)
_PERCENT = 99.9
"""Of the values that a percentile range covers."""

Bounds = tuple[float, float]


@dataclass
class RangeObserver:
    """Sees the values of one tensor, batch after batch, and chooses the range to quantize.

    Keeps the exact minimum and maximum of each channel, and an evenly spaced subset of the values
    of each batch, so that thousands of large feature maps cost little. Where the values are asked
    for with `factors`, each channel is divided by its own first.
    """

    axis: int | None = None
    """The channel axis; None where channels do not matter."""
    low: Tensor = field(default_factory=lambda: torch.tensor([torch.inf]))
    high: Tensor = field(default_factory=lambda: torch.tensor([-torch.inf]))
    """float32 [channels], or [1] without an axis."""
    kept: list[Tensor] = field(default_factory=list)
    """float32 [channels, values]."""
    later: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Minimum and maximum of what was taken in for `widest` alone."""

    def see(self, x: Tensor, subset: int = 1 << 16) -> None:
        """Take in one float tensor of any shape."""
        lined = self._lined(x)
        self.low = torch.minimum(self.low, lined.amin(1))
        self.high = torch.maximum(self.high, lined.amax(1))
        each = max(1, subset // len(lined))
        # An odd step: an even one would meet the same few columns of a picture in every row.
        step = max(1, lined.shape[1] // each) | 1
        self.kept.append(lined[:, ::step].float().clone())

    def reach(self, x: Tensor) -> None:
        """Take in a tensor that only `widest` is to know of."""
        lined = self._lined(x)
        self.later.append((lined.amin(1), lined.amax(1)))

    def widest(self, factors: Tensor | None = None) -> Bounds:
        """As `minmax`, of all that was ever taken in."""
        low, high = zip((self.low, self.high), *self.later, strict=True)
        return _bounds(torch.stack(low).amin(0), torch.stack(high).amax(0), factors)

    def _lined(self, x: Tensor) -> Tensor:
        x = x.detach()
        return x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)

    def minmax(self, factors: Tensor | None = None) -> Bounds:
        """All that was seen, and zero, which padding needs to be exact."""
        return _bounds(self.low, self.high, factors)

    def percentile(self, factors: Tensor | None = None) -> Bounds:
        """Without the outermost thousandth of the values, half of it at each end; with zero."""
        rest = (100 - _PERCENT) / 2
        low, high = np.percentile(self._values(factors), (rest, 100 - rest))
        return min(float(low), 0.0), max(float(high), 0.0)

    def mse(self, levels: int, factors: Tensor | None = None) -> Bounds:
        """The range with the smallest mean squared error for `levels` evenly spaced levels.

        Both ends are searched one after the other, from the full range inwards: rounding error
        shrinks with the range while clipping error grows. Never wider than `minmax`. The
        initialization of 2DQuant (Liu et al. 2024) is such a search.
        """
        counts, edges = self._histogram(factors)
        centres = (edges[1:] + edges[:-1]) / 2

        def error(a: float, b: float) -> float:
            step = max(b - a, 1e-12) / (levels - 1)
            clipped = np.clip(centres, a, b)
            # Rounding error is uniform within a step; a bin as wide as a step has no room for it.
            return float((counts * ((centres - clipped) ** 2 + step**2 / 12)).sum())

        return search_bounds(error, self.minmax(factors), _SHRINKS)

    def entropy(self, levels: int, factors: Tensor | None = None) -> Bounds:
        """The range whose codes lose the least information (Migacz 2017)."""
        counts, edges = self._histogram(factors)
        low, high = self.minmax(factors)
        shrink = min(_SHRINKS, key=lambda s: divergence(counts, edges, low * s, high * s, levels))
        return float(low * shrink), float(high * shrink)

    def _values(self, factors: Tensor | None) -> np.ndarray:
        whole = torch.cat(self.kept, 1)
        return (whole if factors is None else whole / factors[:, None]).reshape(-1).numpy()

    def _histogram(self, factors: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.minmax(factors)
        return np.histogram(self._values(factors), _BINS, (low, high if high > low else low + 1))


def _bounds(low: Tensor, high: Tensor, factors: Tensor | None) -> Bounds:
    if factors is not None:
        low, high = low / factors, high / factors
    return min(float(low.min()), 0.0), max(float(high.max()), 0.0)


def search_bounds(
    error: Callable[[float, float], float], widest: Bounds, shrinks: np.ndarray
) -> Bounds:
    """The bounds of the least error, each end searched in turn from the widest inwards, twice."""
    low, high = widest
    for _ in range(2):
        high = min((high * s for s in shrinks), key=lambda b: error(low, b))
        low = min((low * s for s in shrinks), key=lambda a: error(a, high))
    return float(low), float(high)


def divergence(
    counts: np.ndarray, edges: np.ndarray, low: float, high: float, levels: int
) -> float:
    """Kullback-Leibler divergence of values from their codes over [low, high], in nats.

    What lies outside counts at the outermost bins. The codes' mass is spread evenly over those of
    their bins that hold something (Migacz: 8-bit Inference with TensorRT, 2017).
    """
    centres = (edges[1:] + edges[:-1]) / 2
    inside = np.flatnonzero((centres >= low) & (centres <= high))
    if not len(inside):
        return float("inf")
    first, last = int(inside[0]), int(inside[-1])
    seen = counts[first : last + 1].astype(np.float64)
    p = seen.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last + 1 :].sum()
    step = max(high - low, 1e-12) / (levels - 1)
    code = np.rint((centres[first : last + 1] - low) / step).astype(np.int64)
    there = seen > 0
    room = np.bincount(code, there, minlength=levels)
    q = np.where(
        there, np.bincount(code, seen, minlength=levels)[code] / np.maximum(room[code], 1), 0
    )
    p, q = p / max(p.sum(), 1), q / max(q.sum(), 1)
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))).sum())


def affine_codes(
    low: float, high: float, bits: int = 8, *, signed: bool = False
) -> tuple[float, int]:
    """Scale and zero point of the unsigned affine code that covers [low, high]; zero is exact.

    With `signed`, where anything is negative, the zero point is the middle one: shifted by it the
    code is that of a signed integer.
    """
    top = 2**bits - 1
    if signed and low < 0:
        middle = 2 ** (bits - 1)
        return max(-low / middle, high / (middle - 1), 1e-8 / top), middle
    scale = max(high - low, 1e-8) / top
    return scale, int(min(top, max(0, round(-low / scale))))
