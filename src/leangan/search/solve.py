"""One option per group, at the least cost within a limit: the multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STATES = 4096
"""Partial choices kept after each group. Small problems never have as many, and are exact."""
_ROUNDING = 1e-12

Pair = tuple[float, float]
"""What an option costs, and what it takes of the limit; neither is negative."""


def cheapest(groups: Sequence[Sequence[Pair]], limit: float) -> list[int] | None:
    """Choose one option of each group so that the limit holds and the costs add up to the least.

    Dynamic programming over the choices of the first groups that no other one beats in both
    respects (Dudzinski and Walukiewicz 1987, "Exact methods for the knapsack problem and its
    generalizations"). Where these are too many, those that take almost the same of the limit are
    merged; what is chosen holds the limit all the same.

    Args:
        groups: the options of each.
        limit: of the sum of what the chosen ones take; may be infinite.

    Returns:
        The place of the chosen option in each group. Of choices that cost the same, the one that
        takes less. None when even what takes the least is too much.
    """
    least = [min(take for _, take in options) for options in groups]
    left = float(np.sum(least))
    limit *= 1 + _ROUNDING
    if left > limit:
        return None
    most = float(np.sum([max(take for _, take in options) for options in groups]))
    width = min(limit, most) / _STATES
    cost, take = np.zeros(1), np.zeros(1)
    back: list[tuple[np.ndarray, np.ndarray]] = []
    for options, smallest in zip(groups, least, strict=True):
        left -= smallest
        costs = np.concatenate([cost + c for c, _ in options])
        takes = np.concatenate([take + t for _, t in options])
        parents = np.tile(np.arange(len(cost)), len(options))
        picks = np.repeat(np.arange(len(options)), len(cost))
        # What takes the least must stay, however its sum is rounded.
        possible = (takes + left <= limit) | (takes == takes.min())
        order = np.lexsort((costs, takes))
        order = order[possible[order]]
        best = np.minimum.accumulate(costs[order])
        better = np.concatenate([[True], best[1:] < best[:-1]])
        order = order[better]
        if len(order) > _STATES:
            bins = (takes[order] / width).astype(np.int64)
            last = np.concatenate([bins[1:] != bins[:-1], [True]])
            last[0] = True
            order = order[last]
        cost, take = costs[order], takes[order]
        back.append((parents[order], picks[order]))
    state = len(cost) - 1  # ascending in what they take, so descending in cost
    chosen = []
    for parent, pick in reversed(back):
        chosen.append(int(pick[state]))
        state = int(parent[state])
    return chosen[::-1]
