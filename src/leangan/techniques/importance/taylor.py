"""First-order Taylor importance on the maps."""

from __future__ import annotations

import torch
from torch import Tensor

from leangan.graph.observe import observe_gradients
from leangan.techniques.importance.base import Context, Criterion, Scores, per_channel


class _Change:
    """The squared first-order change of the loss when a map is set to zero, mean over samples."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sum = torch.zeros(())
        self._runs = 0

    def see(self, value: Tensor, gradient: Tensor) -> None:
        terms = (value * gradient).double().movedim(self._axis, 0)
        self._sum = self._sum + terms.flatten(1).sum(1).square()
        self._runs += 1

    @property
    def mean(self) -> Tensor:
        return self._sum / max(self._runs, 1)


def _taylor(context: Context) -> Scores:
    """Readers of one group add up; so do the indices of one channel.

    The loss is the output in a random direction: the usual one, the distance to the original's
    own output, has no gradient at the original. Summed at the readers' inputs and not over the
    kernels that compute the maps, since with a norm behind them the latter sum is zero.
    """
    seen: dict[tuple[str, str], _Change] = {}
    for group in context.coupling.groups:
        for reader in group.readers:
            seen.setdefault((reader.node, reader.source), _Change(reader.axis))
    observers = {key: [change] for key, change in seen.items()}
    observe_gradients(context.module, context.samples, observers, seed=context.seed)
    scores: Scores = {}
    for group in context.coupling.groups:
        total = torch.zeros(group.width, dtype=torch.float64)
        for reader in group.readers:
            change = seen[reader.node, reader.source].mean
            total += per_channel(change, reader.positions).sum(-1)
        scores[group.name] = total
    return scores


TAYLOR = Criterion(
    "taylor",
    "squared first-order change of the output without a map (Molchanov et al. 2017, 2019)",
    True,
    _taylor,
)
