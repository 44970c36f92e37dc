"""Which maps the others can explain: removed one at a time, the best explained first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leangan.graph.channels import Group, Positions
from leangan.graph.observe import GradientMoments, observe_gradients
from leangan.techniques.importance.base import Context, Criterion, Scores, places_of

RIDGE = 1e-4
"""Added to each channel's variance, as a share of it: maps that are copies of each other would
make the covariance singular."""
WIDEST = 2048
"""Wider matrices would take minutes: then only like places of the group's own channels meet."""


@dataclass
class Reading:
    """How well one reader can do without each channel of a group.

    With S the covariance of all channels that the reader reads, and M the mean outer product of
    the gradients of the output there: without channel j, and with the reader's kernel refitted by
    least squares, its input errs by the residual of j given the others, of variance
    1 / (S^-1)_jj, and the output by M_jj / (S^-1)_jj. Both matrices are then updated: S by the
    Schur complement, M because the refitted kernel leans more on the channels that explained j.
    So the damages of a sequence of removals add up to that of removing all at once. This is
    Optimal Brain Surgeon (Hassibi and Stork 1993) on maps in place of weights.
    """

    inverse: Tensor
    """S^-1 of what is left; rows and columns of removed channels are zero."""
    weight: Tensor
    """M of what is left."""
    places: Tensor
    """(width, indices per channel): where the group's channels stand."""

    def damages(self) -> Tensor:
        """(width,): the mean squared error of the output without each channel."""
        if self.places.shape[1] == 1:
            at = self.places[:, 0]
            return (self.weight.diagonal()[at] / self.inverse.diagonal()[at]).nan_to_num(0.0)
        inner = torch.linalg.pinv(_blocks(self.inverse, self.places), hermitian=True)
        return (_blocks(self.weight, self.places) * inner).sum((1, 2))

    def remove(self, channel: int) -> None:
        """Take one channel out and refit."""
        at = self.places[channel]
        columns = self.inverse[:, at]
        moved = columns @ torch.linalg.pinv(columns[at], hermitian=True)
        self.inverse = self.inverse - moved @ columns.T
        crossed = self.weight[:, at] @ moved.T
        inner = moved @ self.weight[at][:, at] @ moved.T
        self.weight = self.weight - crossed - crossed.T + inner


def removal_order(readings: list[Reading], width: int) -> tuple[list[int], Tensor]:
    """All channels in the order of least damage, with the damage that each adds."""
    left = torch.ones(width, dtype=torch.bool)
    order: list[int] = []
    added: list[Tensor] = []
    for _ in range(width):
        damage = torch.zeros(width, dtype=torch.float64)
        for reading in readings:
            damage = damage + reading.damages()
        channel = int(torch.where(left, damage, torch.inf).nan_to_num(torch.inf).argmin())
        if not left[channel]:  # nothing finite is left: any of the rest
            channel = int(left.nonzero()[0])
        order.append(channel)
        added.append(damage[channel].nan_to_num(0.0).clamp_min(0.0))
        left[channel] = False
        for reading in readings:
            reading.remove(channel)
    return order, torch.stack(added)


def _redundancy(context: Context) -> Scores:
    gradients: dict[tuple[str, str], GradientMoments] = {}
    for group in context.coupling.groups:
        for reader in group.readers:
            key = reader.node, reader.source
            gradients.setdefault(key, GradientMoments(reader.axis, seed=context.seed))
    observe_gradients(
        context.module,
        context.samples,
        {key: [moments] for key, moments in gradients.items()},
        seed=context.seed,
    )
    return {
        group.name: _scores(group, _readings(context, group, gradients))
        for group in context.coupling.groups
    }


def _readings(
    context: Context, group: Group, gradients: dict[tuple[str, str], GradientMoments]
) -> list[Reading]:
    readings = []
    for reader in group.readers:
        covariance = context.moments[reader.source, reader.axis].covariance
        weight = gradients[reader.node, reader.source].gram
        readings.append(reading(covariance, weight, reader.positions))
    return readings


def reading(covariance: Tensor, weight: Tensor, positions: Positions) -> Reading:
    """Start with all channels in place.

    Args:
        covariance: float64 (channels, channels) of what is read.
        weight: float64 (channels, channels), how much the output hangs on it.
        positions: of the group's channels among them.
    """
    places = places_of(positions, len(covariance))
    if len(covariance) > WIDEST:
        # One index of every channel at a time, as if they were further samples.
        each = [(at[:, None], at[None, :]) for at in torch.tensor(positions).T]
        covariance = torch.stack([covariance[at] for at in each]).mean(0)
        weight = torch.stack([weight[at] for at in each]).sum(0)
        places = torch.arange(len(places))[:, None]
    inverse = torch.linalg.inv(regular(covariance))
    if int(places.max()) == len(inverse):  # a row and column for what some channels lack
        inverse, weight = (torch.nn.functional.pad(m, (0, 1, 0, 1)) for m in (inverse, weight))
    return Reading(inverse, weight, places)


def regular(covariance: Tensor) -> Tensor:
    """With a ridge on the diagonal, in each channel's own scale, so that it can be inverted."""
    own = covariance.diagonal().clamp_min(0.0)
    return covariance + torch.diag(RIDGE * own + (own.mean() * 1e-9).clamp_min(1e-30))


def _scores(group: Group, readings: list[Reading]) -> Tensor:
    """The damage at the time of removal, never less than that of an earlier one."""
    order, added = removal_order(readings, group.width)
    scores = torch.empty(group.width, dtype=torch.float64)
    highest = 0.0
    for channel, damage in zip(order, added.tolist(), strict=True):
        # A hair more than the one before, so that sorting gives the order of removal back.
        highest = max(damage, highest * (1 + 1e-9))
        scores[channel] = highest
    return scores


def _blocks(matrix: Tensor, places: Tensor) -> Tensor:
    return matrix[places[:, :, None], places[:, None, :]]


REDUNDANCY = Criterion(
    "redundancy",
    "what the output loses without a map, after the kept maps have explained what they can "
    "(in the line of Hassibi and Stork 1993; Luo et al. 2017, ThiNet; He et al. 2017)",
    True,
    _redundancy,
)
