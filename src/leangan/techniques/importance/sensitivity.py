"""What a score means for the output: some channels of each group are taken out, and it is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from leangan.generator import Generator
from leangan.graph.channels import Reader
from leangan.graph.cost import layers
from leangan.graph.observe import Moments
from leangan.graph.replay import Replay, Substitute
from leangan.techniques.crop import crop_share
from leangan.techniques.importance.base import Context, Scores
from leangan.techniques.importance.redundancy import WIDEST, regular

SHARES = (0.25, 0.6)
"""Of a group's channels that are taken out to see: a few, and many, since damage grows faster than
any score foresees."""
PROBES = 6
PROBE_MACS = 1e12
"""What all trials together may cost: a minute on one core. Inputs are cropped to fit."""


def sensitivity(
    context: Context,
    scores: Scores,
    *,
    refit: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of the same order that add up to the mean squared error of the (first) output.

    Scores of different groups cannot be compared by themselves. So the least important channels
    of each group, a quarter and then more than half, are taken out at everything that reads them,
    of a few small samples, and it is measured what that does to the output.

    Args:
        context: with at least one sample.
        scores: of all groups of its coupling.
        refit: whether the kept maps may explain those taken out, by least squares, as they will
            when the weights are reconstructed; else they are zero.
        progress: called with (groups done, groups in all).
    """
    groups = context.coupling.groups
    probes = cut_inputs(context.generator, context.samples, trials=len(groups) * len(SHARES))
    replays = [Replay(context.module, inputs) for inputs in probes]
    nodes = {node.name: node for node in context.module.graph.nodes}
    scaled = {}
    for done, group in enumerate(groups, 1):
        points = {}
        for share in SHARES:
            removed = least_important(scores[group.name], share)
            if len(removed) in points:
                continue
            without = {
                nodes[reader.node]: _without(context, reader, removed, refit=refit)
                for reader in group.readers
            }
            errors = [float((r.changed(without) - r.output).square().mean()) for r in replays]
            points[len(removed)] = sum(errors) / len(errors)
        scaled[group.name] = through(scores[group.name], points)
        if progress:
            progress(done, len(groups))
    return scaled


def through(scores: Tensor, points: Mapping[int, float]) -> Tensor:
    """Scores scaled piece by piece so that the n lowest add up to what was measured at n.

    Never less than those of channels that go before: where removing more was measured to harm
    less, the measurement is not believed.

    Args:
        scores: float64 (width,), none negative.
        points: by number of channels, ascending, the damage of removing so many.
    """
    order = scores.argsort(stable=True)
    ranked = scores[order]
    result = torch.empty_like(ranked)
    start, before = 0, 0.0
    ends = list(points.items())
    for place, (end, damage) in enumerate(ends):
        piece = ranked[start:end]
        rise, total = max(damage - before, 0.0), float(piece.sum())
        result[start:end] = piece * (rise / total) if total > 0 else rise / (end - start)
        if place == len(ends) - 1:  # nothing was measured beyond
            last = float(result[end - 1])
            lowest = float(ranked[end - 1])
            result[end:] = ranked[end:] * (last / lowest) if lowest > 0 else last
        start, before = end, damage
    rising = result.cummax(0).values
    # A hair more for each, so that sorting gives the same order back.
    rising = rising * (1 + 1e-9 * torch.arange(len(rising), dtype=rising.dtype))
    return torch.empty_like(rising).scatter(0, order, rising)


def least_important(scores: Tensor, share: float) -> list[int]:
    """The channels of the lowest scores, at least one, never all."""
    count = min(max(round(share * len(scores)), 1), max(len(scores) - 1, 1))
    return sorted(scores.argsort(stable=True)[:count].tolist())


def _without(
    context: Context, reader: Reader, removed: Sequence[int], *, refit: bool
) -> Substitute:
    """What the reader puts out when some of what it reads is gone."""
    gone = torch.tensor([at for channel in removed for at in reader.positions[channel]])
    fit = _explain(context.moments[reader.source, reader.axis], gone) if refit else None

    def compute(node: Node, args: tuple[object, ...]) -> Tensor:
        changed = []
        for argument, value in zip(node.args, args, strict=True):
            if isinstance(argument, Node) and argument.name == reader.source:
                assert isinstance(value, Tensor)
                value = _filled(value, reader.axis, gone, fit)
            changed.append(value)
        result: Tensor = node.target(*changed, **node.kwargs)  # type: ignore[operator]
        return result

    return compute


def _explain(moments: Moments, gone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(kept indices, coefficients, constant) with which kept channels explain those gone."""
    mean, covariance = moments.mean, regular(moments.covariance)
    left = torch.ones(len(mean), dtype=torch.bool)
    left[gone] = False
    kept = left.nonzero()[:, 0]
    if len(mean) > WIDEST:  # too large to solve: by their means alone
        return kept, torch.zeros(len(kept), len(gone)), mean[gone].float()
    by = torch.linalg.solve(covariance[kept][:, kept], covariance[kept][:, gone])
    return kept, by.float(), (mean[gone] - mean[kept] @ by).float()


def _filled(
    value: Tensor, axis: int, gone: Tensor, fit: tuple[Tensor, Tensor, Tensor] | None
) -> Tensor:
    if fit is None:
        return value.index_fill(axis, gone, 0.0)
    kept, by, constant = fit
    rows = value.index_select(axis, kept).movedim(axis, -1)
    return value.index_copy(axis, gone, (rows @ by + constant).movedim(-1, axis))


def cut_inputs(
    generator: Generator, samples: Sequence[tuple[Tensor, ...]], *, trials: int
) -> list[tuple[Tensor, ...]]:
    """A few samples, cropped in the middle until `trials` runs from halfway are affordable."""
    chosen = list(samples[:PROBES])
    probes = [crop_share(generator, inputs, 1.0) for inputs in chosen]
    cost = sum(sum(layer.macs for layer in layers(generator, p)) for p in probes) / 2 * trials
    spatial = max(sum(letter in "HWT" for letter in p.layout) for p in generator.signature.inputs)
    share = min((PROBE_MACS / cost) ** (1 / max(spatial, 1)), 1.0)
    return [crop_share(generator, inputs, share) for inputs in chosen]
