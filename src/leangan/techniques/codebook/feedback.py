"""Round weights one input at a time, and let those that follow make up for each error.

Frantar et al.: GPTQ (ICLR 2023), after Optimal Brain Surgeon (Hassibi, Stork 1993). What counts is
the layer's output: where two inputs are alike, a weight rounded up is balanced by one rounded down.
Layers are done in order, on the inputs that the layers quantized before give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.channels import Sliced
from leangan.graph.rewrite import tensor_of
from leangan.techniques.columns import round_columns, to_levels
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.moments import Correlations
from leangan.techniques.patches import Layer, forward_weight, read_layer, stored_weight

_DAMPING = 0.02
"""Share of the mean square of the inputs added to each, for what so few positions do not show."""

Levels = Callable[[str, Tensor], tuple[Tensor, Tensor] | None]
"""From a weight's path and the mean square of each input channel to levels float64 (books, levels)
and the book of each output channel; None for a weight that is not to be rounded here."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums come in one order, so that the same seed gives the same bytes on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def layers_with_feedback(module: GraphModule) -> set[str]:
    """Paths of the weights that `round_with_feedback` can round."""
    found = (read_layer(module, node) for node in module.graph.nodes)
    return {str(layer.weight.target) for layer in found if layer is not None}


def round_with_feedback(
    original: GraphModule,
    module: GraphModule,
    choose: Levels,
    free_biases: set[str],
    samples: Sequence[tuple[Tensor, ...]],
    seed: int,
) -> None:
    """Change the weights of `module` to their levels, and biases to keep the outputs' means.

    Args:
        original: the float graph.
        module: a copy, changed in place. Zeros of its weights stay.
        choose: says the levels of a layer when its turn comes.
        free_biases: paths of the biases that one layer alone reads.
        samples: calibration inputs.
        seed: of the choice of positions.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        walk = Lockstep(original, Sliced(module, {}), samples)
        for node in walk.steps():
            layer = read_layer(module, node)
            if layer is None:
                continue
            weight = tensor_of(module, layer.weight)
            assert weight is not None
            forward = forward_weight(layer, weight).double()
            seen = Correlations(layer, tuple(forward.shape[3:]), walk.values(layer.x), rng)
            chosen = choose(str(layer.weight.target), seen.power())
            if chosen is None:
                continue
            # The walk took the layer for unchanged when it came to it.
            rounded = _rounded(layer, forward, seen, *chosen)
            weight.copy_(rounded.to(weight.dtype))
            walk.differs.add(node.name)
            walk.forget(node)
            if layer.bias is not None and str(layer.bias.target) in free_biases:
                _keep_mean(walk, node, layer)


def _rounded(
    layer: Layer, forward: Tensor, seen: Correlations, levels: Tensor, book: Tensor
) -> Tensor:
    flat = forward.flatten(3).clone() if forward.dim() > 3 else forward[..., None].clone()
    groups, outs, ins, _ = flat.shape
    shared = book.reshape(groups, outs)
    for phase, places in seen.phases:
        moments = seen.moments(places)
        for group in range(groups):
            part = flat[group][..., phase.taps].flatten(1)
            snap = to_levels(levels[shared[group]])
            made = round_columns(part, moments[group], snap, _DAMPING)
            flat[group][..., phase.taps] = made.unflatten(1, (ins, len(phase.taps)))
    return stored_weight(layer, flat.reshape(forward.shape)).contiguous()


def _keep_mean(walk: Lockstep, node: Node, layer: Layer) -> None:
    """Shift the bias by what the mean of each output channel lost on the samples."""
    bias = tensor_of(walk.changed, layer.bias)
    assert bias is not None
    axis = layer.channel_axis
    lost, seen = torch.zeros(len(bias), dtype=torch.float64), 0
    made = walk.values(node)
    for old, new in zip(walk.originals(node), made, strict=True):
        difference = (old - new).movedim(axis, 0).flatten(1)
        lost += difference.double().sum(1)
        seen += difference.shape[1]
    shift = (lost / max(1, seen)).to(bias.dtype)
    bias.add_(shift)
    for new in made:  # cheaper than to compute them again
        new.movedim(axis, -1).add_(shift)
