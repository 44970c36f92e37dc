"""Norms of a pruned network: their statistics, scale and shift, matched to the original's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.rewrite import tensor_of
from leangan.techniques.least_squares import Sums, draw, pieces, refit, share_out
from leangan.techniques.lockstep import Lockstep

_ROWS = 2**16
"""Positions looked at per norm: two unknowns a channel need no more."""


def match_norm(walk: Lockstep, node: Node) -> None:
    """Choose scale and shift such that the norm's output is nearest to the original's.

    A norm scales what is left of a map to full size again, the error with it; the scale of least
    squared error is smaller. Worth 3 dB on a CycleGAN. Does nothing to other nodes.
    """
    if not is_call(node, aten.instance_norm, aten.group_norm, aten.layer_norm):
        return
    named = arguments(node)
    scale, shift = (tensor_of(walk.changed, named[k]) for k in ("weight", "bias"))
    if scale is None or scale.dim() != 1:
        return
    axis = -1 if is_call(node, aten.layer_norm) else 1
    unknowns = 1 if shift is None else 2
    found = Sums.empty(len(scale), unknowns, 1), Sums.empty(len(scale), unknowns, 1)
    values, targets = pieces(walk.values(node)), pieces(walk.originals(node))
    flat = [
        [v.float().movedim(axis, 0).flatten(1)[..., None] for v in some]  # [C, positions, 1]
        for some in (values, targets)
    ]
    chosen = draw([x.shape[1] for x in flat[0]], _ROWS)
    for piece, (places, x, y) in enumerate(zip(chosen, *flat, strict=True)):
        rows = x[:, places]
        if shift is not None:
            rows = torch.cat([rows, torch.ones_like(rows)], 2)
        share_out(found, piece, len(values), rows, y[:, places])
    same = torch.zeros(len(scale), unknowns, 1, dtype=torch.float64)
    same[:, 0] = 1
    gain = refit(*found, same, constant=shift is not None)[..., 0].float()
    scale *= gain[:, 0]
    if shift is not None:
        shift.mul_(gain[:, 0]).add_(gain[:, 1])
    walk.forget(node)


def match_statistics(walk: Lockstep, node: Node) -> None:
    """Move a BatchNorm's running mean and variance by what the pruned network moved them.

    The change against the original on the same inputs is what counts: few inputs tell it better
    than they tell the statistics themselves. Does nothing to other nodes.
    """
    if not is_call(node, aten._native_batch_norm_legit_no_training):
        return
    named = arguments(node)
    mean, var = (tensor_of(walk.changed, named[k]) for k in ("running_mean", "running_var"))
    source = named["input"]
    if mean is None or var is None or source.name not in walk.differs:
        return
    new_mean, new_var = _moments(walk.values(source))
    old_mean, old_var = _moments(walk.originals(source))
    # The statistics of all data lie where they lay, in units of the spread of these inputs.
    ratio = (new_var + named["eps"]) / (old_var + named["eps"])
    mean.copy_(new_mean + (mean - old_mean) * ratio.sqrt())
    var.add_(named["eps"]).mul_(ratio).sub_(named["eps"]).clamp_(min=0)


def _moments(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel, over all samples and positions."""
    flat = torch.cat([v.float().movedim(1, 0).flatten(1) for v in values], 1)
    return flat.mean(1), flat.var(1, correction=0)
