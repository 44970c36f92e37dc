"""Remove channels from a generator, and fold what they shared into those that stay."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.channels import Coupling, Sliced, by_reason, couple, slice_module
from leangan.graph.cost import macs as count_macs
from leangan.graph.rewrite import recapture
from leangan.techniques.allocate import Budget, Keep, allocate
from leangan.techniques.calibration_inputs import Samples, calibration_inputs
from leangan.techniques.importance import Context, Criterion, criterion
from leangan.techniques.importance.sensitivity import sensitivity
from leangan.techniques.order import refuse_quantized
from leangan.techniques.reconstruct import reconstruct as refit_weights
from leangan.techniques.width_cost import Resource, WidthCost

Progress = Callable[[str, int, int], None]

_ROUNDS = 3
_SHOWN = 6
_OFF = 0.01
"""A count that differs from the plan by more than this share calls for another round."""


def prune_channels(
    generator: Generator,
    ratio: float | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    by: str = "redundancy",
    data: Samples | None = None,
    scope: Literal["global", "uniform"] = "global",
    reconstruct: bool = True,
    multiple: int = 8,
    only: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generator:
    """Remove the channels that the output needs least, with all that computes and reads them.

    Coupled channels are found and cut without any hint (graph/channels.py). With data, what the
    removal of channels does to the output is measured for every group, so that more is taken
    where less depends on it; and the weights that stay are refitted to the original's feature
    maps by least squares, so that no training is needed.

    Args:
        generator: float, not quantized.
        ratio: share of the prunable channels to remove, between 0 and 1. Exactly one of `ratio`,
            `macs` and `params` is given.
        macs: share of the multiply-accumulates that may be left, between 0 and 1.
        params: share of the parameters that may be left, between 0 and 1.
        by: the criterion, a name of `importance.CRITERIA`.
        data: calibration inputs as the generator takes them; six pictures are enough. May be left
            out where all inputs are latents or noise, which are then drawn, or where neither the
            criterion nor `reconstruct` needs any.
        scope: "global" takes channels wherever that does the least damage; "uniform" takes the
            same share of every group.
        reconstruct: refit the weights that stay.
        multiple: kept widths are multiples of it, where groups are wide enough.
        only: patterns with * and ? of the names of the groups that may lose channels; all when
            not given. `describe_groups` tells the names.
        seed: of everything that is drawn.
        progress: called with (what is done, steps done, steps in all).

    Returns:
        The pruned generator. The step "prune_channels" of its history holds the widths and the
        kept channels of all groups that lost some, MACs and parameters before and after, and the
        shares of what is fixed.

    Raises:
        UsageError: not exactly one amount; an unknown criterion or group; data is needed and
            missing; the budget cannot be reached, with what can; the generator is quantized.
        LeanganError: nothing can be pruned, with the reasons and their shares.
    """
    budget = _budget(ratio, macs, params, scope, multiple)
    judge = criterion(by)
    refuse_quantized(generator, "Prune channels")
    tick = progress or (lambda what, done, of: None)
    tick("finding coupled channels", 0, 1)
    coupling = chosen_groups(generator, couple(generator), only)
    samples = calibration_inputs(
        generator, coupling, judge, data, reconstruct=reconstruct, seed=seed
    )
    tick("finding coupled channels", 1, 1)
    scores = score_channels(
        Context(generator, generator.module(), coupling, samples, seed),
        judge,
        # Within a group the order is what counts, and that needs no measuring.
        measure=scope == "global" and bool(samples),
        refit=reconstruct,
        progress=tick,
    )
    keep, sliced = _cut(generator, coupling, scores, budget)
    if reconstruct:
        refit_weights(generator, sliced, samples, lambda i, n: tick("refitting weights", i, n))
    settings = {
        "amount": {"channels": 1 - budget.left}
        if budget.of == "channels"
        else {budget.of: budget.left},
        "by": by,
        "scope": scope,
        "reconstruct": reconstruct,
        "multiple": multiple,
        "only": list(only) if only is not None else None,
        "seed": seed,
        "samples": len(samples),
    }
    tick("exporting", 0, 1)
    pruned = recapture(generator, sliced.module, Step("prune_channels", settings))
    measured = {
        "widths": {
            g.name: [g.width, len(keep[g.name])]
            for g in coupling.groups
            if len(keep[g.name]) < g.width
        },
        "kept": {g.name: keep[g.name] for g in coupling.groups if len(keep[g.name]) < g.width},
        "macs": [count_macs(generator), count_macs(pruned)],
        "params": [generator.params, pruned.params],
        "fixed": fixed_shares(generator, coupling),
    }
    tick("exporting", 1, 1)
    return generator.then(pruned.program, Step("prune_channels", settings, measured))


def score_channels(
    context: Context, judge: Criterion, *, measure: bool, refit: bool, progress: Progress
) -> dict[str, Tensor]:
    """Scores of all groups; those that were measured add up to the output's squared error."""
    progress(f"judging channels by {judge.name}", 0, 1)
    scores = judge.score(context)
    progress(f"judging channels by {judge.name}", 1, 1)
    if not measure:
        return scores
    return sensitivity(
        context,
        scores,
        refit=refit,
        progress=lambda done, of: progress("measuring what the output loses", done, of),
    )


def fixed_shares(generator: Generator, coupling: Coupling) -> dict[str, float]:
    """Per reason the share of the parameters that no channel can be removed from."""
    whole = max(generator.params, 1)
    return {
        reason: sum(one.params for one in ones) / whole
        for reason, ones in by_reason(coupling.fixed).items()
    }


def _cut(
    generator: Generator, coupling: Coupling, scores: Mapping[str, Tensor], budget: Budget
) -> tuple[Keep, Sliced]:
    """Allocate, slice and count; again where the cost model was wrong about this graph.

    It is wrong where weights are computed on the way: each further round removes by the model as
    much more, or less, as the count of the one before was off by.
    """
    asked = budget
    for _ in range(_ROUNDS):
        keep = allocate(generator, coupling, scores, asked)
        sliced = slice_module(generator, coupling, keep)
        if budget.of == "channels":
            break
        cost = WidthCost(generator, coupling, budget.of)
        planned = cost.total({name: len(kept) for name, kept in keep.items()}) / cost.whole
        found = _share_left(generator, sliced.module, budget.of)
        if abs(found - planned) <= _OFF * budget.left or found == 1:
            break
        left = 1 - (1 - budget.left) * (1 - planned) / (1 - found)
        asked = replace(budget, left=min(max(left, 1e-3), 1 - 1e-3))
    return keep, sliced


def _share_left(generator: Generator, module: GraphModule, of: Resource) -> float:
    """Counted on the cut graph, which is not exported yet."""
    if of == "params":
        return sum(p.numel() for p in module.parameters()) / generator.params
    return _flops(generator, module) / _flops(generator, generator.module())


def _flops(generator: Generator, module: GraphModule) -> int:
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        module(*generator.example())
    return counter.get_total_flops()


def _budget(
    ratio: float | None,
    macs: float | None,
    params: float | None,
    scope: Literal["global", "uniform"],
    multiple: int,
) -> Budget:
    given = {"ratio": ratio, "macs": macs, "params": params}
    named = [f"{name}={value:g}" for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise UsageError(
            "Say how much to prune by exactly one of ratio (share of the channels to remove), "
            f"macs and params (share to leave); got {', '.join(named) or 'none'}."
        )
    if ratio is not None:
        if not 0 < ratio < 1:
            raise UsageError(
                f"The share of channels to remove must be between 0 and 1; it is {ratio:g}."
            )
        return Budget(1 - ratio, "channels", scope, multiple)
    if macs is not None:
        return Budget(macs, "macs", scope, multiple)
    assert params is not None
    return Budget(params, "params", scope, multiple)


def chosen_groups(generator: Generator, coupling: Coupling, only: Sequence[str] | None) -> Coupling:
    """The coupling with the wanted groups alone.

    Raises:
        UsageError: a pattern of `only` fits none.
        LeanganError: there are no groups at all; the reasons and their shares are named.
    """
    if not coupling.groups:
        shares = fixed_shares(generator, coupling).items()
        reasons = "; ".join(f"{share:.0%} of the parameters: {why}" for why, share in shares)
        raise LeanganError(f"{generator.name} has no channel that can be removed ({reasons}).")
    if only is None:
        return coupling
    names = [group.name for group in coupling.groups]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_listed(names)}."
            raise UsageError(f"{generator.name} has no group of channels {pattern!r}; {hint}")
    wanted = [g for g in coupling.groups if any(fnmatchcase(g.name, p) for p in only)]
    if not wanted:
        raise UsageError("only= names no group of channels; leave it out to prune all.")
    return Coupling(tuple(wanted), coupling.fixed)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
