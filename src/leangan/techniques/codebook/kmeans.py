"""K-means in one dimension, for many rows at once: exact sums, the same bytes on every machine.

Sorted values make it cheap. A cluster is a stretch of them, its borders are found by bisection,
its mean is a difference of cumulative sums; so an iteration costs levels times log(values), not
levels times values. Sums are in double precision and in one fixed order, whatever the threads.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Init = Literal["k-means++", "linear", "density", "random"]
INITS: tuple[str, ...] = get_args(Init)
_ITERATIONS = 60
_STARTS = 3
"""Draws of k-means++; the deterministic starts are tried beside them."""
_DRAWN_FROM = 1024
"""Values of each row that starts are drawn from, evenly spaced in their order."""


def kmeans(
    rows: Tensor, weights: Tensor, levels: int, *, init: Init = "k-means++", seed: int = 0
) -> Tensor:
    """The levels with the least weighted squared distance from each row's values.

    Args:
        rows: float (rows, values); each row is a problem of its own.
        weights: as `rows`, 0 or more: how much each value counts.
        levels: wanted of each row.
        init: "linear" starts evenly between smallest and largest value, "density" at equal steps
            of probability, "random" at values drawn, as compared in Deep Compression (Han, Mao,
            Dally 2016). "k-means++" (Arthur and Vassilvitskii 2007) draws several starts, tries
            the first two beside them, and keeps the best of each row.
        seed: of the draws.

    Returns:
        float64 (rows, levels), ascending. Levels that no value came to stay where they started.
    """
    values, order = rows.double().sort(dim=1, stable=True)
    weight = weights.double().gather(1, order)
    empty = weight.sum(1, keepdim=True) == 0
    weight = torch.where(empty, torch.ones_like(weight), weight)
    sums = _Sums(values, weight)
    found = sums.lloyd(torch.stack(_starts(values, weight, levels, init, seed), 1))
    least = sums.error(found).argmin(1)  # the first of equal ones
    return found[torch.arange(len(found)), least]


def nearest(rows: Tensor, levels: Tensor) -> Tensor:
    """Per value the index of the nearest of its row's ascending levels: int64, as `rows`."""
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    return torch.searchsorted(middles.contiguous(), rows.double().contiguous())


def powers_of_two(rows: Tensor, weights: Tensor, levels: int) -> Tensor:
    """Levels 0 and plus or minus powers of two, the largest chosen for the least squared error.

    A multiplication by such a weight is a shift. Returns as `kmeans`; with an even number of
    levels, the smallest power on the negative side is left out.
    """
    largest = rows.double().abs().amax(1).clamp_min(2.0**-100).log2().ceil()
    steps = torch.arange((levels - 1) // 2 + (levels - 1) % 2, dtype=torch.float64)
    best, least = None, None
    for lower in range(4):
        positive = torch.exp2(largest[:, None] - lower - steps).flip(1)
        negative = -positive.flip(1)[:, : levels - 1 - len(steps)]
        found = torch.cat([negative, torch.zeros_like(largest)[:, None], positive], 1)
        taken = found.gather(1, nearest(rows, found))
        error = (weights.double() * (rows.double() - taken).square()).sum(1)
        if best is None or least is None:
            best, least = found, error
        else:
            best = torch.where((error < least)[:, None], found, best)
            least = torch.minimum(error, least)
    assert best is not None
    return best


class _Sums:
    """Cumulative sums of weight, weight times value, and weight times its square."""

    def __init__(self, values: Tensor, weight: Tensor) -> None:
        self.values = values.contiguous()
        products = (weight, weight * values, weight * values.square())
        self.mass, self.first, self.second = (_cumulative(p) for p in products)

    def clusters(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, sum and sum of squares of what is nearest to each level.

        Args:
            levels: (rows, starts, levels), ascending.
        """
        middles = (levels[..., 1:] + levels[..., :-1]) / 2
        inner = torch.searchsorted(self.values, middles.flatten(1), right=True)
        ends = torch.tensor([0, self.values.shape[1]]).expand(*levels.shape[:2], 2)
        borders = torch.cat([ends[..., :1], inner.reshape(middles.shape), ends[..., 1:]], 2)
        flat = borders.flatten(1)
        mass, first, second = (
            s.gather(1, flat).reshape(borders.shape).diff(dim=2)
            for s in (self.mass, self.first, self.second)
        )
        return mass, first, second

    def lloyd(self, levels: Tensor) -> Tensor:
        for _ in range(_ITERATIONS):
            mass, first, _second = self.clusters(levels)
            moved = torch.where(mass > 0, first / mass.clamp_min(1e-300), levels)
            moved = moved.sort(dim=2).values
            if torch.equal(moved, levels):
                break
            levels = moved
        return levels

    def error(self, levels: Tensor) -> Tensor:
        """Weighted squared distances: (rows, starts)."""
        mass, first, second = self.clusters(levels)
        return (second - 2 * levels * first + levels.square() * mass).sum(2)


def _cumulative(values: Tensor) -> Tensor:
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values.numpy(), axis=1, out=sums[:, 1:])
    return torch.from_numpy(sums)


def _starts(values: Tensor, weight: Tensor, levels: int, init: Init, seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    if init == "linear":
        return [_linear(values, levels)]
    if init == "density":
        return [_density(values, levels)]
    places = np.linspace(0, values.shape[1] - 1, min(values.shape[1], _DRAWN_FROM)).astype(int)
    few, heavy = values[:, places].numpy(), weight[:, places].numpy()
    if init == "random":
        drawn = rng.integers(0, few.shape[1], (len(few), levels))
        return [torch.from_numpy(np.sort(np.take_along_axis(few, drawn, 1), 1))]
    drawn_starts = [_plus_plus(few, heavy, levels, rng) for _ in range(_STARTS)]
    return [_linear(values, levels), _density(values, levels), *drawn_starts]


def _linear(values: Tensor, levels: int) -> Tensor:
    share = torch.linspace(0, 1, levels, dtype=torch.float64)
    return values[:, :1] + (values[:, -1:] - values[:, :1]) * share


def _density(values: Tensor, levels: int) -> Tensor:
    share = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return values[:, (share * values.shape[1]).long()]


def _plus_plus(
    values: np.ndarray, weight: np.ndarray, levels: int, rng: np.random.Generator
) -> Tensor:
    """Each further level is drawn with a chance in proportion to weight times distance squared."""
    every = np.arange(len(values))
    chance = weight
    distance = np.full_like(values, np.inf)
    found = np.empty((len(values), levels))
    for level in range(levels):
        heap = chance.cumsum(1)
        drawn = rng.random((len(values), 1)) * heap[:, -1:]
        place = np.minimum((heap <= drawn).sum(1), values.shape[1] - 1)
        found[:, level] = values[every, place]
        distance = np.minimum(distance, (values - found[:, level : level + 1]) ** 2)
        chance = weight * distance
    return torch.from_numpy(np.sort(found, 1))
