"""Ridge regression by normal equations, its strength chosen on rows that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_START, _STEP = 1e-3, 10.0
"""The ridge strength tried first, and how it is changed."""
_RANGE = (1e-6, 10.0)
_CHUNK = 2**24
"""Most elements of rows in one product, so that memory stays small."""


@dataclass
class Sums:
    """What least squares needs of the rows seen so far, in float64.

    There may be several independent problems of one size: G problems, each of K unknowns for
    each of O outputs.
    """

    gram: Tensor
    """[G, K, K]: sum of x x^T."""
    cross: Tensor
    """[G, K, O]: sum of x y^T."""
    energy: Tensor
    """[G, O]: sum of y^2."""

    @classmethod
    def empty(cls, groups: int, unknowns: int, outputs: int) -> Sums:
        """Those of no rows."""
        wide = torch.float64
        return cls(
            torch.zeros(groups, unknowns, unknowns, dtype=wide),
            torch.zeros(groups, unknowns, outputs, dtype=wide),
            torch.zeros(groups, outputs, dtype=wide),
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows, x [G, rows, K] and y [G, rows, O].

        Products are of float32, which is fast; sums of many calls stay exact in float64.
        """
        rows = max(1, _CHUNK // max(1, x.shape[0] * x.shape[2]))
        for some_x, some_y in zip(x.float().split(rows, 1), y.float().split(rows, 1), strict=True):
            self.gram += some_x.mT @ some_x
            self.cross += some_x.mT @ some_y
            self.energy += some_y.double().square().sum(1)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.gram + other.gram, self.cross + other.cross, self.energy + other.energy)

    def error(self, w: Tensor) -> Tensor:
        """Sum of squared errors of the weights `w` [G, K, O] over these rows: [G, O]."""
        return self.energy + ((self.gram @ w - 2 * self.cross) * w).sum(1)

    def solve(self, prior: Tensor, strength: float, *, constant: bool) -> Tensor:
        """The weights [G, K, O] of least squared error plus ridge towards `prior`.

        Args:
            prior: [G, K, O]; also what comes back when the system cannot be solved.
            strength: each unknown's penalty as a share of its own energy, so that the scale of an
                input does not matter.
            constant: the last unknown is an intercept, and free.
        """
        own = self.gram.diagonal(dim1=1, dim2=2)
        # What is always zero (a dead map) must not make the system singular.
        penalty = strength * own + 1e-9 * own.mean(1, keepdim=True) + 1e-30
        if constant:
            penalty[:, -1] = 0
        factor, failed = torch.linalg.cholesky_ex(self.gram + torch.diag_embed(penalty))
        if bool(failed.any()):
            return prior
        return prior + torch.cholesky_solve(self.cross - self.gram @ prior, factor)


def refit(
    train: Sums, held: Sums, old: Tensor, guesses: Sequence[Tensor] = (), *, constant: bool
) -> Tensor:
    """New weights where they do better than the old ones on rows they were not fitted to.

    Args:
        train: rows to fit.
        held: other rows, by which the ridge strength is chosen.
        old: the weights that there are, [G, K, O].
        guesses: others, of the same shape; the ridge pulls towards the best of all.
        constant: as in `Sums.solve`.

    Returns:
        [G, K, O], fitted to all rows with the strength that did best on the held ones; for each
        output the old weights where nothing did better.
    """
    before = held.error(old)
    prior = min((old, *guesses), key=lambda w: float(held.error(w).sum()))
    least, chosen = held.error(prior), 0.0
    for strength, error in _tried(train, held, prior, constant):
        if float(error.sum()) < float(least.sum()):
            least, chosen = error, strength
    new = (train + held).solve(prior, chosen, constant=constant) if chosen else prior
    # Comparisons with NaN are false, so that what is not finite changes nothing.
    return torch.where((least < before)[:, None, :], new, old)


def _tried(
    train: Sums, held: Sums, prior: Tensor, constant: bool
) -> Iterator[tuple[float, Tensor]]:
    """Strengths with their errors on the held rows, uphill or downhill until they rise."""

    def error(strength: float) -> Tensor:
        return held.error(train.solve(prior, strength, constant=constant))

    first, second = error(_START), error(_START * _STEP)
    yield _START, first
    yield _START * _STEP, second
    stronger = float(second.sum()) < float(first.sum())
    last, strength = (second, _START * _STEP) if stronger else (first, _START)
    while True:
        strength = strength * _STEP if stronger else strength / _STEP
        if not _RANGE[0] * 0.99 <= strength <= _RANGE[1] * 1.01:
            return
        found = error(strength)
        yield strength, found
        if not float(found.sum()) < float(last.sum()):
            return
        last = found


def pieces(values: Sequence[Tensor]) -> list[Tensor]:
    """One tensor per element of each batch."""
    return [piece for v in values for piece in (v.split(1) if v.dim() > 1 else [v])]


def draw(counts: Sequence[int], wanted: int) -> list[Tensor]:
    """An even share of the positions of each piece, always the same."""
    rng = torch.Generator().manual_seed(0)
    share = min(1.0, wanted / max(1, sum(counts)))
    return [
        torch.randperm(count, generator=rng)[: math.ceil(share * count)].sort().values
        for count in counts
    ]


def share_out(found: tuple[Sums, Sums], piece: int, pieces: int, x: Tensor, y: Tensor) -> None:
    """Every fourth piece is held out; of few pieces the last quarter of each, its lower rows."""
    if pieces >= 4:
        found[piece % 4 == 3].add(x, y)
        return
    cut = -(-x.shape[1] * 3 // 4)
    found[0].add(x[:, :cut], y[:, :cut])
    found[1].add(x[:, cut:], y[:, cut:])
