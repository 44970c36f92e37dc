"""Even steps for weights: `w_q = round(w / s) + z`, `w ~ (w_q - z) * s`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        step: "minmax" reaches the largest weight; "percentile" the 99.9th of the absolute ones;
            "mse" has the least squared error; "entropy" the least Kullback-Leibler divergence of
            the quantized weights' distribution from their own.
    """
    low, high = code_range(bits, symmetric=symmetric)
    blank = Grid(axis, torch.ones(rows), torch.zeros(rows, dtype=torch.int64), low, high)
    values = blank.rows(weight.detach().float())
    if symmetric:
        top = values.abs().amax(1)
        bottom = -top
    else:
        bottom, top = values.amin(1).clamp_max(0), values.amax(1).clamp_min(0)
    best = _steps(bottom, top, low, high, symmetric=symmetric)
    if step == "minmax":
        return Grid(axis, *best, low, high)
    if step == "percentile":
        place = values.abs().quantile(0.999, dim=1) / torch.maximum(top, -bottom).clamp_min(1e-12)
        best = _steps(bottom * place, top * place, low, high, symmetric=symmetric)
        return Grid(axis, *best, low, high)
    least = torch.full_like(top, torch.inf)
    cost = _squared if step == "mse" else _divergence
    for shrink in torch.linspace(1.0, 0.3, 71).tolist():
        scales, zeros = _steps(bottom * shrink, top * shrink, low, high, symmetric=symmetric)
        codes = (values / scales[:, None]).round().add_(zeros[:, None]).clamp_(low, high)
        error = cost(values, codes, (codes - zeros[:, None]) * scales[:, None], low, high)
        better = error < least
        best = torch.where(better, scales, best[0]), torch.where(better, zeros, best[1])
        least = torch.where(better, error, least)
    return Grid(axis, *best, low, high)


def _steps(
    bottom: Tensor, top: Tensor, low: int, high: int, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    if symmetric:
        return (top / high).clamp_min(1e-12), torch.zeros(len(top), dtype=torch.int64)
    scales = ((top - bottom) / (high - low)).clamp_min(1e-12)
    return scales, (low - bottom / scales).round().clamp(low, high).long()


def _squared(values: Tensor, codes: Tensor, made: Tensor, low: int, high: int) -> Tensor:
    return (made - values).square().sum(1)


def _divergence(values: Tensor, codes: Tensor, made: Tensor, low: int, high: int) -> Tensor:
    """How far the codes' distribution, spread evenly within each step, is from the weights' own.

    Migacz 2017, as for activations; over 8 bins a step, so that clipping and coarse steps count.
    """
    fine = 8
    step = (made - values).abs().amax(1, keepdim=True)  # keeps zero rows harmless
    scale = torch.where(codes != 0, made / codes.where(codes != 0, torch.ones_like(codes)), 0.0)
    unit = scale.abs().amax(1, keepdim=True).clamp_min(1e-12) + 0 * step
    place = ((values / unit) * fine).round().clamp(-(2**9) * fine, 2**9 * fine)
    found = []
    for row, code in zip(place, codes, strict=True):
        bins, inverse, counts = row.unique(return_inverse=True, return_counts=True)
        _, cell, mass = code.unique(return_inverse=True, return_counts=True)
        owner = torch.zeros(len(bins), dtype=torch.int64).scatter_(0, inverse, cell)
        width = torch.bincount(owner, minlength=len(mass)).clamp_min(1)
        p = counts / counts.sum()
        q = (mass / width)[owner] / counts.sum()
        found.append((p * (p / q.clamp_min(1e-12)).log()).sum())
    return torch.stack(found)
