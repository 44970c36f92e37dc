"""Even steps for weights: `w_q = round(w / s) + z`, `w ~ (w_q - z) * s`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leangan.techniques.ranges import divergence


@dataclass(frozen=True)
class Grid:
    """Where the codes of one weight lie.

    The weight is seen as rows of one step each: [rows, weights of a row]. Rows are the whole
    tensor, its output channels, or groups of neighbours within these, in this order.
    """

    axis: int
    """The output-channel axis of the weight."""
    scales: Tensor
    """float32 [rows], positive."""
    zero_points: Tensor
    """int64 [rows]; all 0 when symmetric."""
    low: int
    high: int
    """The smallest and the largest code."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor shaped as the weight as rows."""
        return weight.movedim(self.axis, 0).reshape(len(self.scales), -1)

    def back(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `rows`, shaped as `like`."""
        return rows.reshape(like.movedim(self.axis, 0).shape).movedim(0, self.axis).contiguous()

    def positions(self, weight: Tensor) -> Tensor:
        """Codes before rounding and clipping, float, shaped as the weight."""
        rows = self.rows(weight) / self.scales[:, None] + self.zero_points[:, None]
        return self.back(rows, weight)

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes: float holding whole numbers, shaped as the weight."""
        return self.positions(weight).round_().clamp_(self.low, self.high)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, shaped as they are; differentiable."""
        rows = (self.rows(codes) - self.zero_points[:, None]) * self.scales[:, None]
        return self.back(rows, codes)

    def nearest(self, weight: Tensor) -> Tensor:
        """The weight with each value at the nearest step."""
        return self.values(self.codes(weight))


def code_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """The smallest and the largest signed code; as many on both sides of zero when symmetric."""
    half = 2 ** (bits - 1)
    return (1 - half if symmetric else -half), half - 1


def row_count(weight: Tensor, axis: int, per: str, group: int) -> int:
    """Rows of one step each. A group that does not divide the channel takes the next that does."""
    if per == "tensor":
        return 1
    channels = weight.shape[axis]
    if per == "channel":
        return channels
    inner = weight.numel() // channels
    while inner % group and group < inner:
        group += 1
    return channels * (inner // min(group, inner))


def make_grid(
    weight: Tensor, axis: int, bits: int, *, symmetric: bool, rows: int, step: str
) -> Grid:
    """Choose the steps of a weight.

    Args:
        weight: any shape.
        axis: of its output channels.
        bits: 2 to 8.
        symmetric: no zero points.
        rows: see `row_count`.
        step: "minmax" reaches the largest weight; "percentile" covers 99.9% of them; "mse" has
            the least squared error; "entropy" loses the least information, see
            `ranges.divergence`.
    """
    low, high = code_range(bits, symmetric=symmetric)
    blank = Grid(axis, torch.ones(rows), torch.zeros(rows, dtype=torch.int64), low, high)
    values = blank.rows(weight.detach().float())
    if symmetric:
        top = values.abs().amax(1)
        bottom = -top
    else:
        bottom, top = values.amin(1).clamp_max(0), values.amax(1).clamp_min(0)

    def grid(shrink: Tensor) -> Grid:
        """The whole range of each row times its `shrink`."""
        return Grid(axis, *_steps(bottom * shrink, top * shrink, low, high, symmetric), low, high)

    if step == "minmax":
        return grid(torch.ones(rows))
    if step == "percentile":
        reach = torch.from_numpy(np.percentile(values.abs().numpy(), 99.9, axis=1))
        return grid((reach / torch.maximum(top, -bottom).clamp_min(1e-12)).float())
    if step == "entropy":
        levels = high - low + 1
        return grid(torch.tensor([_least_divergence(row.numpy(), levels) for row in values]))
    best = torch.ones(rows)
    least = torch.full((rows,), torch.inf)
    # Fewer steps are worth more clipping.
    for shrink in torch.linspace(1.0, 0.7 if bits > 6 else 0.3, 16 if bits > 6 else 57):
        scales, zeros = (
            t[:, None] for t in _steps(bottom * shrink, top * shrink, low, high, symmetric)
        )
        codes = (values / scales).round_().add_(zeros).clamp_(low, high)
        error = codes.sub_(zeros).mul_(scales).sub_(values).square_().sum(1)
        best = torch.where(error < least, shrink, best)
        least = torch.minimum(error, least)
    return grid(best)


def _steps(
    bottom: Tensor, top: Tensor, low: int, high: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    if symmetric:
        return (top / high).clamp_min(1e-12), torch.zeros(len(top), dtype=torch.int64)
    scales = ((top - bottom) / (high - low)).clamp_min(1e-12)
    return scales, (low - bottom / scales).round().clamp(low, high).long()


def _least_divergence(row: np.ndarray, levels: int) -> float:
    reach = float(np.abs(row).max()) or 1.0
    counts, edges = np.histogram(row, 64 * levels, (-reach, reach))
    shrinks = np.linspace(1.0, 0.4, 16)
    return float(
        min(shrinks, key=lambda s: divergence(counts, edges, -reach * s, reach * s, levels))
    )
