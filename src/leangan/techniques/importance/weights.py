"""Criteria that look at the weights alone, and the control that looks at nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node

from leangan.errors import LeanganError
from leangan.graph.channels import Group
from leangan.graph.operators import aten, is_call
from leangan.techniques.importance.base import Context, Criterion, Scores, per_channel, relative

_NORM_SCALES: dict[object, int] = {
    aten._native_batch_norm_legit_no_training: 1,
    aten.batch_norm: 1,
    aten.instance_norm: 1,
    aten.native_batch_norm: 1,
    aten.native_group_norm: 1,
    aten.group_norm: 2,
}
"""Where a norm's scale stands among the arguments."""


def slices(context: Context, group: Group, role: str) -> list[Tensor]:
    """Per member of that role float64 (width, elements): what each channel has there."""
    found = []
    for member in group.members:
        if member.role == role:
            weight = context.tensor(member.path).movedim(member.axis, -1)
            found.append(per_channel(weight, member.positions).movedim(-2, 0).flatten(1))
    return found


def _norm(order: int) -> Callable[[Context], Scores]:
    def score(context: Context) -> Scores:
        scores = {}
        for group in context.coupling.groups:
            # A constant input, say, is computed by no kernel: then by the kernels that read it.
            parts = slices(context, group, "out") or slices(context, group, "in")
            total = torch.zeros(group.width, dtype=torch.float64)
            for part in parts:
                total += part.abs().pow(order).sum(1)
            scores[group.name] = relative(total.pow(1 / order))
        return scores

    return score


def _norm_scale(context: Context) -> Scores:
    scales = _scale_paths(context)
    scores: Scores = {}
    plain: list[Group] = []
    for group in context.coupling.groups:
        parts = [
            per_channel(context.tensor(m.path), m.positions).abs().mean(-1)
            for m in group.members
            if m.path in scales
        ]
        if parts:
            scores[group.name] = relative(torch.stack(parts).mean(0))
        else:
            plain.append(group)
    if not scores:
        raise LeanganError(
            f"norm-scale: no prunable channel of {context.generator.name} passes a BatchNorm, "
            "InstanceNorm or GroupNorm with a scale of its own; choose another criterion, "
            "redundancy for example."
        )
    instead = _norm(1)(context)
    return scores | {group.name: instead[group.name] for group in plain}


def _scale_paths(context: Context) -> set[str]:
    paths = set()
    for node in context.module.graph.nodes:
        for packet, place in _NORM_SCALES.items():
            if is_call(node, packet) and len(node.args) > place:
                scale = node.args[place]
                if isinstance(scale, Node) and scale.op == "get_attr":
                    paths.add(str(scale.target))
    return paths


def _geometric_median(context: Context) -> Scores:
    scores = {}
    for group in context.coupling.groups:
        parts = slices(context, group, "out") or slices(context, group, "in")
        if not parts:
            scores[group.name] = torch.zeros(group.width, dtype=torch.float64)
            continue
        filters = torch.cat(parts, 1)
        scores[group.name] = relative(torch.cdist(filters, filters).sum(1))
    return scores


def _random(context: Context) -> Scores:
    rng = torch.Generator().manual_seed(context.seed)
    return {
        group.name: torch.rand(group.width, generator=rng, dtype=torch.float64)
        for group in context.coupling.groups
    }


L1 = Criterion(
    "l1",
    "sum of absolute weights of the kernels that compute a channel (Li et al. 2017)",
    False,
    _norm(1),
)
L2 = Criterion(
    "l2", "root of the sum of squares of the same kernels (Li et al. 2017)", False, _norm(2)
)
NORM_SCALE = Criterion(
    "norm-scale",
    "size of the norm's scale (Network Slimming, Liu et al. 2017); l1 where there is no norm",
    False,
    _norm_scale,
)
GEOMETRIC_MEDIAN = Criterion(
    "geometric-median",
    "distance of a channel's kernel to all others (FPGM, He et al. 2019)",
    False,
    _geometric_median,
)
RANDOM = Criterion("random", "drawn at random: the control", False, _random)
