"""What there is to prune in a generator, and how compressible each criterion finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.graph.channels import Coupling, Group, couple
from leangan.graph.cost import Layer, layers
from leangan.techniques.importance.base import Context, Scores
from leangan.techniques.importance.registry import CRITERIA, criterion

SMALL = 0.01
"""Channels count as dispensable as long as their scores make up less than this share of all."""


def describe_groups(
    generator: Generator,
    samples: Sequence[tuple[Tensor, ...]] = (),
    *,
    by: Sequence[str] | None = None,
    coupling: Coupling | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One plain dictionary per group of channels, in the order of computation.

    Args:
        generator: float.
        samples: calibration inputs, for the criteria that look at feature maps.
        by: names of criteria; all that can be computed when not given.
        coupling: of this generator, where it is known already.
        seed: of what is drawn.

    Returns:
        `name`; `width`; `params`, the elements of all slices that go with the group's channels;
        `macs_share`, the share of the MACs in layers that compute or read them; and
        `dispensable`, per criterion the share of the channels whose scores, the lowest first, add
        up to less than 1% of the group's.

    Raises:
        UsageError: a criterion that there is not, or that needs samples and there are none.
    """
    coupling = coupling or couple(generator)
    context = Context(generator, generator.module(), coupling, samples, seed)
    scores = _all_scores(context) if by is None else {name: _score(context, name) for name in by}
    costs = layers(generator)
    return [
        {
            "name": group.name,
            "width": group.width,
            "params": _params(context, group),
            "macs_share": _macs_share(costs, group),
            "dispensable": {name: dispensable(s[group.name]) for name, s in scores.items()},
        }
        for group in coupling.groups
    ]


def dispensable(scores: Tensor) -> float:
    """The share of channels whose scores, the lowest first, add up to less than 1% of all."""
    together = scores.sort().values.cumsum(0)
    if not float(together[-1]) > 0:
        return 0.0  # nothing was told apart
    return float((together < SMALL * together[-1]).double().mean())


def _score(context: Context, name: str) -> Scores:
    judge = criterion(name)
    if judge.needs_data and not context.samples:
        raise UsageError(f"{name} looks at feature maps: give calibration inputs.")
    return judge.score(context)


def _all_scores(context: Context) -> dict[str, Scores]:
    scores = {}
    for name, judge in CRITERIA.items():
        if context.samples or not judge.needs_data:
            # norm-scale refuses where there is no norm: nobody asked for it by name.
            with contextlib.suppress(LeanganError):
                scores[name] = judge.score(context)
    return scores


def _params(context: Context, group: Group) -> int:
    learned = dict(context.module.named_parameters())
    total = 0
    for member in group.members:
        if member.path in learned:
            tensor = learned[member.path]
            taken = sum(map(len, member.positions))
            total += tensor.numel() // tensor.shape[member.axis] * taken
    return total


def _macs_share(costs: Sequence[Layer], group: Group) -> float:
    paths = {member.path for member in group.members}
    readers = {reader.node for reader in group.readers}
    touched = sum(c.macs for c in costs if c.weight in paths or c.node in readers)
    return touched / max(sum(c.macs for c in costs), 1)
