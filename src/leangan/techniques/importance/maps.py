"""Criteria that look at the feature maps as they are read: their size, zeros and rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leangan.techniques.importance.base import (
    Context,
    Criterion,
    Scores,
    mean_over_sources,
    relative,
    watch_sources,
)

ZERO = 0.01
"""Values within this share of their map's largest count as zero: LeakyReLU and SiLU put out what
is next to nothing where ReLU puts out nothing."""
SIDE = 64
"""Maps are thinned to at most this many rows and columns before their rank is computed."""
RANK_TOLERANCE = 0.01
"""Singular values below this share of the largest are noise: floats make every map of full rank."""


class _PerChannel:
    """The mean over samples of one number per map."""

    def __init__(self, axis: int, measure: Callable[[Tensor], Tensor]) -> None:
        self._axis, self._measure = axis, measure
        self._sum = torch.zeros(())
        self._count = 0

    def see(self, value: Tensor) -> None:
        maps = value.movedim(self._axis, 0)
        # (channels, samples, height, width): a map in time is framed, one without places is 1x1.
        if maps.dim() == 3:
            maps = _framed(maps)
        maps = maps.reshape(*maps.shape[:2], -1, maps.shape[-1] if maps.dim() > 2 else 1)
        self._sum = self._sum + self._measure(maps).double().sum(1)
        self._count += maps.shape[1]

    @property
    def mean(self) -> Tensor:
        return self._sum / max(self._count, 1)


def _framed(maps: Tensor) -> Tensor:
    """(channels, samples, time) cut into frames of about the root of its length."""
    side = max(int(maps.shape[-1] ** 0.5), 1)
    return maps.unfold(-1, side, side)


def _size(maps: Tensor) -> Tensor:
    return maps.abs().mean((-1, -2))


def _busy(maps: Tensor) -> Tensor:
    size = maps.abs()
    return (size > ZERO * size.amax((-1, -2), keepdim=True)).float().mean((-1, -2))


def _rank(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    thinned = maps[..., :: -(-height // SIDE), :: -(-width // SIDE)]
    return torch.linalg.matrix_rank(thinned, rtol=RANK_TOLERANCE)


def _by(measure: Callable[[Tensor], Tensor], *, as_share: bool) -> Callable[[Context], Scores]:
    def score(context: Context) -> Scores:
        seen = watch_sources(context, lambda axis: _PerChannel(axis, measure))
        values = {key: observer.mean for key, observer in seen.items()}
        scores = {g.name: mean_over_sources(g, values) for g in context.coupling.groups}
        return scores if as_share else {name: relative(s) for name, s in scores.items()}

    return score


MEAN_ACTIVATION = Criterion(
    "mean-activation",
    "mean absolute value of a map (Molchanov et al. 2017)",
    True,
    _by(_size, as_share=False),
)
APOZ = Criterion(
    "apoz",
    "share of a map that is not zero, or next to it (APoZ, Hu et al. 2016)",
    True,
    _by(_busy, as_share=True),
)
FEATURE_RANK = Criterion(
    "feature-rank",
    "mean rank of a map as a matrix (HRank, Lin et al. 2020)",
    True,
    _by(_rank, as_share=False),
)
