"""Weights that are made of something else than themselves while they are trained.

A weight that is cut, coded or rounded must stay so: what is trained then is what it is made of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leangan.techniques.codebook.books import Book


class Form(nn.Module):
    """One stored weight; calling it gives the weight to compute with."""

    path: str
    """Of the weight in the graph."""

    def stored(self) -> Tensor:
        """What a file holds of it when training ends."""
        with torch.no_grad():
            made: Tensor = self()
        return made


class Masked(Form):
    """Zeros stay zero (Han et al. 2015): only the others are trained."""

    mask: Tensor

    def __init__(self, path: str, weight: Tensor) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(weight.detach().clone())
        self.register_buffer("mask", weight.detach() != 0)

    def forward(self) -> Tensor:
        """The weight, with its zeros; these are plain zeros, never negative ones."""
        return torch.where(self.mask, self.weight, 0.0)


class Levels(Form):
    """The levels are trained, and which weight takes which.

    Han, Mao, Dally: Deep Compression (ICLR 2016), section 3.3: the gradient of a level is the sum
    of the gradients of the weights that share it. Each weight also moves by its own gradient, as
    if it were not coded (the straight-through estimator, Bengio et al. 2013), and takes the level
    of its group that it has come nearest to. A level of zero stays zero, and so do its weights.
    """

    levels: Tensor
    start: Tensor
    indices: Tensor
    table: Tensor
    scale: Tensor

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.path, self.halves, self.shape = book.path, book.halves, book.indices.shape
        self.register_buffer("levels", book.levels)
        self.register_buffer("indices", book.indices.reshape(book.parting))
        self.register_buffer("start", book.levels[self.indices])
        # (groups, most levels of one), the last one repeated where a group has fewer.
        ends = torch.tensor(book.counts).cumsum(0)[:, None]
        firsts = ends - torch.tensor(book.counts)[:, None]
        table = torch.minimum(firsts + torch.arange(max(book.counts)), ends - 1)
        self.register_buffer("table", table)
        # The root mean square of the levels: steps are in shares of it.
        self.register_buffer("scale", book.levels.square().mean().sqrt())
        self.change = nn.Parameter(torch.zeros_like(book.levels))
        self.drift = nn.Parameter(torch.zeros(self.start.numel()))

    def forward(self) -> Tensor:
        """The weight of the levels as they are now."""
        moved = torch.where(self.levels == 0, 0.0, self.levels + self.scale * self.change)
        drift = torch.where(self.start == 0, 0.0, self.scale * self.drift.view_as(self.start))
        taken = _Taken.apply(moved, self._nearest(moved.detach(), self.start + drift.detach()))
        weight: Tensor = taken + (drift - drift.detach())
        return weight.reshape(self.shape)

    def _nearest(self, levels: Tensor, weights: Tensor) -> Tensor:
        """The index of the level that each weight is nearest to, in its group."""
        ordered, order = levels[self.table].sort(1)
        between = (ordered[:, 1:] + ordered[:, :-1]) / 2
        lined = weights.movedim(1, 0).flatten(1).contiguous()
        places = order.gather(1, torch.searchsorted(between, lined))
        found = self.table.gather(1, places).reshape(len(lined), len(weights), -1).movedim(0, 1)
        return torch.where(self.start == 0, self.indices, found)

    def stored(self) -> Tensor:
        """As computed with, of levels that the file holds as short as before."""
        weight = super().stored()
        return weight.to(torch.bfloat16).float() if self.halves else weight


class _Taken(torch.autograd.Function):
    """`levels[indices]`, whose gradient is summed in one order whatever the threads."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.count = len(levels)
        return levels[indices]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        slope = slopes[0].double()
        return torch.bincount(indices.flatten(), slope.flatten(), ctx.count).float(), None
