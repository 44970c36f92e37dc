"""Where the weights of a layer lie, and the levels that they are rounded to: what is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BINS = 90
_ROWS = 4
"""Codebooks of a layer that are kept, spread over its channels; the others look alike."""

_RARE = 0.002
"""Share of the weights, at either end, that the levels of codebooks are not drawn smaller for."""


@dataclass(frozen=True)
class Histogram:
    """Counts of weights in even bins, and the levels that these weights may take.

    Rare weights beyond the first and the last bin count there.
    """

    unit: str
    """"step": every weight is divided by its own step, so that the levels are whole numbers for
    all channels; "value": as the weights are."""
    low: float
    high: float
    """Left end of the first bin, right end of the last."""
    counts: tuple[int, ...]
    rounded: bool
    """Whether the weights counted are the rounded ones, since the float ones are not known."""
    rows: tuple[tuple[tuple[float, int], ...], ...]
    """Per codebook (of even steps there is one) the levels, ascending, with the number of weights
    at each."""


def of_steps(codes: Tensor, positions: Tensor | None, low: int, high: int) -> Histogram:
    """Weights between even steps.

    Args:
        codes: whole numbers from `low` to `high`, any shape.
        positions: of the float weights, in steps, before they were rounded; None when not known.
        low: the smallest code there is.
        high: the largest.
    """
    number = high - low + 1
    shown = codes.double() if positions is None else positions.double()
    # Bins hold a whole number of codes each, or a code a whole number of bins: else some bins
    # would hold one code more than their neighbours, and look like teeth.
    width = float(-(-number // _BINS))
    if positions is not None:
        width = width if number > _BINS // 2 else 1 / (_BINS // number)
    left, right = low - 0.5, high + 0.5
    # Weights that were clipped lie outside.
    left -= width * max(0, round(float((left - shown.min()) / width + 0.5)))
    bins = max(1, round(float((max(right, float(shown.max())) - left) / width + 0.499)))
    right = left + bins * width
    at = torch.bincount(codes.flatten().long() - low, minlength=number).tolist()
    row = tuple((float(low + i), count) for i, count in enumerate(at))
    return Histogram(
        "step", left, right, _counts(shown, left, right, bins), positions is None, (row,)
    )


def of_codebooks(rows: Tensor, levels: list[Tensor], floats: Tensor | None) -> Histogram:
    """Weights among the levels of codebooks.

    Args:
        rows: the rounded weights, one row per codebook.
        levels: per row its different values, ascending.
        floats: the float weights, any shape; None when not known.
    """
    few = sorted({round(i * (len(levels) - 1) / max(1, _ROWS - 1)) for i in range(_ROWS)})
    drawn = []
    for book in few:
        at = torch.searchsorted(levels[book], rows[book]).bincount(minlength=len(levels[book]))
        drawn.append(tuple(zip(levels[book].tolist(), at.tolist(), strict=True)))
    shown = (rows if floats is None else floats).double().flatten()
    # A few channels of large weights would press all others into the middle.
    lined = shown.sort().values
    rare = int(len(lined) * _RARE)
    low, high = float(lined[rare]), float(lined[len(lined) - 1 - rare])
    low, high = min(low, *(row[0][0] for row in drawn)), max(high, *(row[-1][0] for row in drawn))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = _counts(shown.clamp(low, high), low, high, _BINS)
    return Histogram("value", low, high, counts, floats is None, tuple(drawn))


def _counts(values: Tensor, low: float, high: float, bins: int) -> tuple[int, ...]:
    return tuple(int(c) for c in torch.histc(values, bins, low, high).tolist())
