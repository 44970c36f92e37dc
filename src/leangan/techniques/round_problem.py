"""What rounding a layer's weight does to its output: a quadratic form, from chosen positions.

A layer is a sum over patches of its input, so that the squared error of its output, whatever its
weight, is known from second moments of the patches. Rounding is then fitted without running the
layer again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leangan.techniques.patches import Layer, Phase, Rows, phases

_ROWS = 4
"""Positions for each input of a layer: neighbours are much alike."""
_LEAST_ROWS = 4096
_MACS = 1e11
"""What the moments of a phase may cost, in multiply-accumulates: a few seconds."""
_MOST_INPUTS = 6144
"""More unknowns than this need too much memory, and more positions than there are."""
_HELD = 4
"""One sample in so many, or position where samples are fewer, is kept for judging."""
_DAMPING = 0.02
"""Share of the mean square of the inputs added to each, for what so few positions do not show."""


@dataclass
class Moments:
    """Sums over positions of patches x and of what the output lacks, r.

    r is the wanted output minus what the unrounded weight makes of the patch.
    """

    xx: Tensor
    """float64 [groups, inputs, inputs]."""
    xr: Tensor
    """float64 [groups, inputs, outputs]."""
    rr: Tensor
    """float64 [groups, outputs]."""
    x: Tensor
    """float64 [groups, inputs]."""
    r: Tensor
    """float64 [groups, outputs]."""
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Moments:
        """No positions yet."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(groups, *size, dtype=torch.float64)

        return cls(
            zeros(inputs, inputs), zeros(inputs, outputs), zeros(outputs), zeros(inputs),
            zeros(outputs),
        )  # fmt: skip

    def see(self, x: Tensor, r: Tensor) -> None:
        """Add positions: x [groups, rows, inputs], r [groups, rows, outputs]."""
        self.xx += (x.mT @ x).double()
        self.xr += (x.mT @ r).double()
        self.rr += r.square().sum(1).double()
        self.x += x.sum(1).double()
        self.r += r.sum(1).double()
        self.count += x.shape[1]

    def take_means_off(self) -> None:
        """Leave the error that remains when a bias makes up for its mean."""
        n = max(1, self.count)
        self.xx -= self.x[:, :, None] * self.x[:, None] / n
        self.xr -= self.x[:, :, None] * self.r[:, None] / n
        self.rr -= self.r.square() / n

    def damp(self) -> None:
        """Hold weights near their float values where the positions do not say otherwise."""
        strength = self.xx.diagonal(dim1=1, dim2=2)
        strength += _DAMPING * strength.mean(1, keepdim=True)

    def error(self, moved: Tensor) -> Tensor:
        """The squared error, in all, when the weight moved by [groups, outputs, inputs]."""
        moved = moved.double()
        across = 2 * (moved * self.xr.mT).sum((1, 2))
        return ((moved @ self.xx * moved).sum((1, 2)) - across + self.rr.sum(1)).sum()


@dataclass
class Problem:
    """The taps of a weight that meet the same positions, with what was seen there."""

    taps: Tensor
    """Indices into the flattened kernel."""
    fit: Moments
    held: Moments
    """Of positions that fitting does not see, not damped."""


def problems(
    layer: Layer,
    weight: Tensor,
    bias: Tensor | None,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    rng: torch.Generator,
) -> list[Problem]:
    """One problem per phase of a layer: one in all unless it is transposed.

    Args:
        layer: of the float graph.
        weight: not rounded: [groups, out / groups, in / groups, *taps], see `forward_weight`.
        bias: [out], None where there is none.
        inputs: one per sample, as the quantized network gives them.
        targets: one per sample, the outputs of the float network.
        rng: draws positions.

    Returns:
        None for phases of more than 6144 inputs, nor for those without positions.
    """
    groups, outs, ins, *kernel = weight.shape
    flat = weight.flatten(3) if kernel else weight[..., None]
    parts = phases(layer, tuple(kernel))
    rows = [Rows(layer, tuple(kernel), x) for x in inputs]
    found = []
    for phase in parts:
        columns = ins * len(phase.taps)
        if columns > _MOST_INPUTS:
            continue
        problem = Problem(
            phase.taps,
            Moments.empty(groups, columns, outs),
            Moments.empty(groups, columns, outs),
        )
        rounded = flat[..., phase.taps].flatten(2)
        _see(problem, phase, rows, targets, rounded, bias, rng)
        if not problem.fit.count or not problem.held.count:
            continue
        if bias is not None and len(parts) == 1:
            problem.fit.take_means_off()
            problem.held.take_means_off()
        problem.fit.damp()
        found.append(problem)
    return found


def _see(
    problem: Problem,
    phase: Phase,
    rows: Sequence[Rows],
    targets: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    rng: torch.Generator,
) -> None:
    groups, outs, columns = weight.shape
    wanted = max(_LEAST_ROWS, _ROWS * columns)
    wanted = min(wanted, int(_MACS / (groups * columns**2)) + 1)
    channels = groups * columns // len(phase.taps)
    zero = weight.new_zeros(channels)
    for place, (one, target) in enumerate(zip(rows, targets, strict=True)):
        chosen = torch.randperm(one.count(phase), generator=rng)[: -(-wanted // len(rows))]
        x = one.inputs(phase, chosen, zero)
        r = one.outputs(target, phase, chosen) - x @ weight.mT
        if bias is not None:
            r = r - bias.reshape(groups, 1, outs)
        if len(rows) >= _HELD:
            (problem.held if place % _HELD == _HELD - 1 else problem.fit).see(x, r)
        else:
            cut = x.shape[1] - x.shape[1] // _HELD
            problem.fit.see(x[:, :cut], r[:, :cut])
            problem.held.see(x[:, cut:], r[:, cut:])
