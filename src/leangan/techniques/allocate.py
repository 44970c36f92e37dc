"""How many channels of which group: the least damage for what has to go."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.channels import Coupling
from leangan.techniques.width_cost import Resource, WidthCost

WORDS: dict[Resource, str] = {
    "channels": "prunable channels",
    "macs": "MACs",
    "params": "parameters",
}

Keep = dict[str, list[int]]
"""Per group name the channels that are kept, ascending."""


@dataclass(frozen=True)
class Budget:
    """How much of what may be left."""

    left: float
    """Share of the resource, between 0 and 1, both excluded."""
    of: Resource = "macs"
    scope: Literal["global", "uniform"] = "global"
    """"global": wherever it does the least damage; "uniform": the same share in every group."""
    multiple: int = 8
    """Kept widths are multiples of this, since kernels run in blocks: 48 channels are faster than
    45. In groups of less than twice as many it is halved until it fits in twice."""

    def __post_init__(self) -> None:
        if not 0 < self.left < 1:
            raise UsageError(
                f"The share of {WORDS[self.of]} left must be between 0 and 1; it is {self.left:g}."
            )
        if self.scope not in ("global", "uniform"):
            raise UsageError(f"There is no scope {self.scope!r}; choose global or uniform.")
        if self.multiple < 1:
            raise UsageError(f"Widths cannot be multiples of {self.multiple}; give 1 or more.")


def allocate(
    generator: Generator, coupling: Coupling, scores: Mapping[str, Tensor], budget: Budget
) -> Keep:
    """Choose the channels to keep.

    Args:
        generator: whose costs count.
        coupling: the groups that may lose channels.
        scores: per group name (width,), none negative. With scope "global" they must be
            comparable between groups: the damage of a removal is taken to be the sum of the
            removed channels' scores.
        budget: what may be left.

    Returns:
        Per group the kept channels, ascending, at least one; all of them where nothing went.

    Raises:
        UsageError: so little cannot be reached; the message says how little can.
    """
    ladders = {g.name: ladder(g.width, budget.multiple) for g in coupling.groups}
    cost = WidthCost(generator, coupling, budget.of)
    limit = budget.left * cost.whole * (1 + 1e-9)
    least = cost.total({name: rungs[-1] for name, rungs in ladders.items()})
    if least > limit:
        reachable = math.ceil(1000 * least / cost.whole) / 1000
        raise UsageError(
            f"{generator.name} cannot be pruned to {budget.left:g} of its {WORDS[budget.of]}: "
            f"with every prunable group at its narrowest, {reachable:g} are left. Ask for that "
            "or more."
        )
    order = {name: s.argsort(descending=True, stable=True).tolist() for name, s in scores.items()}
    if budget.scope == "uniform":
        widths = _uniform(cost, ladders, limit)
    else:
        ranked = {name: scores[name][order[name]].tolist() for name in ladders}
        widths = _global(cost, ladders, ranked, limit)
    return {name: sorted(order[name][:width]) for name, width in widths.items()}


def ladder(width: int, multiple: int) -> list[int]:
    """The widths that a group may have, the widest first."""
    step = multiple
    while step > 1 and width < 2 * step:
        step //= 2
    highest = (width - 1) // step * step
    return [width, *range(highest, 0, -step)]


def _uniform(cost: WidthCost, ladders: Mapping[str, Sequence[int]], limit: float) -> dict[str, int]:
    """The largest share of every group, each rounded to its nearest rung, within the limit."""

    def at(share: float) -> dict[str, int]:
        return {
            name: min(rungs, key=lambda rung: abs(rung - share * rungs[0]))
            for name, rungs in ladders.items()
        }

    # Widths change only where a share lies halfway between two rungs.
    steps = {0.0}
    for rungs in ladders.values():
        steps |= {(high + low) / 2 / rungs[0] for high, low in itertools.pairwise(rungs)}
    shares = sorted(steps)
    low, high = 0, len(shares)
    while high - low > 1:  # at(shares[low]) is within the limit, at(shares[high]) is not
        middle = (low + high) // 2
        within = cost.total(at(shares[middle] + 1e-9)) <= limit
        low, high = (middle, high) if within else (low, middle)
    return at(shares[low] + 1e-9)


def _global(
    cost: WidthCost,
    ladders: Mapping[str, Sequence[int]],
    ranked: Mapping[str, Sequence[float]],
    limit: float,
) -> dict[str, int]:
    """Step by step the removal of least damage for what it saves; then what is not needed back.

    `ranked` holds the scores, the highest first. They rise with every removal of a group, so that
    the cheapest step is never hidden behind a dearer one.
    """
    rung = dict.fromkeys(ladders, 0)
    widths = {name: rungs[0] for name, rungs in ladders.items()}
    total = cost.whole

    def damage(name: str, high: int, low: int) -> float:
        return sum(ranked[name][ladders[name][low] : ladders[name][high]])

    def price(name: str) -> float:
        if rung[name] + 1 == len(ladders[name]):
            return math.inf
        saved = -cost.change(widths, name, ladders[name][rung[name] + 1])
        return damage(name, rung[name], rung[name] + 1) / saved if saved > 0 else math.inf

    def regained(name: str) -> float:
        return cost.change(widths, name, ladders[name][rung[name] - 1])

    def move(name: str, by: int) -> None:
        nonlocal total
        rung[name] += by
        width = ladders[name][rung[name]]
        total += cost.change(widths, name, width)
        widths[name] = width

    prices = {name: price(name) for name in ladders}
    while total > limit:
        cheapest = min(prices, key=lambda name: prices[name])
        move(cheapest, 1)
        for name in cost.neighbours(cheapest):
            prices[name] = price(name)
    while back := [name for name in ladders if rung[name] and total + regained(name) <= limit]:
        move(max(back, key=lambda name: damage(name, rung[name] - 1, rung[name])), -1)
    return widths
