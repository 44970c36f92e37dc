"""Fit the codes of one layer's weight, and keep them only where they are better on other data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.rewrite import tensor_of
from leangan.techniques.patches import Layer, forward_weight, read_layer, stored_weight
from leangan.techniques.round_problem import Problem, problems
from leangan.techniques.round_walk import QuantizedLayer, QuantizedWalk


@dataclass
class Choice:
    """The weights of one problem and the codes they can have: all [groups, outs, inputs]."""

    weight: Tensor
    codes: Tensor
    """Whole numbers: the ones that the layer has so far."""
    step: Tensor
    zero: Tensor
    low: int
    high: int

    def moved(self, codes: Tensor) -> Tensor:
        """How far codes are from the float weight."""
        return (codes - self.zero) * self.step - self.weight


Fit = Callable[[Problem, Choice], Tensor]
"""Finds codes, shaped as `Choice.codes`."""


def fit_layers(
    walk: QuantizedWalk,
    fit: Fit,
    rng: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Node]:
    """Walk on and round each layer anew, see `fit_layer`; yields every node, layer or not.

    Args:
        walk: at its start.
        fit: finds codes.
        rng: draws the positions that are looked at.
        progress: called with (layers done, layers in all).
    """
    done = 0
    for node in walk.steps():
        if node.name in walk.layers:
            fit_layer(walk, node, fit, rng)
            done += 1
            if progress is not None:
                progress(done, len(walk.layers))
        yield node


def fit_layer(walk: QuantizedWalk, node: Node, fit: Fit, rng: torch.Generator) -> None:
    """Round one layer anew and let its bias keep the mean of its output.

    Args:
        walk: that has come to the layer.
        node: of the layer, in the changed graph.
        fit: finds codes.
        rng: draws the positions that are looked at.
    """
    quantized = walk.layers[node.name]
    layer = read_layer(walk.original, walk.node(node.name))
    if layer is not None:
        inputs = [quantized.rounded_input(x) for x in walk.values(layer.x)]
        bias = tensor_of(walk.original, layer.bias)
        forward = forward_weight(layer, quantized.scaled)
        found = problems(layer, forward, bias, inputs, walk.originals(node), rng)
        codes = _fitted(layer, quantized, found, fit)
        quantized.set(replace(quantized.code, codes=codes))
    walk.keep_mean(node)


def _fitted(layer: Layer, quantized: QuantizedLayer, found: Sequence[Problem], fit: Fit) -> Tensor:
    """Codes as the weight is stored."""
    grid, scaled = quantized.code.grid, quantized.scaled
    rows = grid.rows(scaled)
    parts = (
        scaled,
        quantized.codes,
        grid.back(grid.scales[:, None].expand_as(rows), scaled),
        grid.back(grid.zero_points[:, None].to(rows.dtype).expand_as(rows), scaled),
    )
    shape = forward_weight(layer, scaled).shape
    flat = [forward_weight(layer, part).reshape(*shape[:3], -1) for part in parts]
    made = flat[1].clone()
    for problem in found:
        weight, codes, step, zero = (p[..., problem.taps].flatten(2) for p in flat)
        choice = Choice(weight, codes, step, zero, grid.low, grid.high)
        # Pruned weights stay zero, which has a code always.
        codes = torch.where(weight == 0, zero, fit(problem, choice))
        better = problem.held.error(choice.moved(codes))
        if better < problem.held.error(choice.moved(choice.codes)):
            made[..., problem.taps] = codes.unflatten(2, (shape[2], -1))
    return stored_weight(layer, made.reshape(shape)).contiguous()
