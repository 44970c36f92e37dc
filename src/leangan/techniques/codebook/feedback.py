"""Round weights one input at a time, and let those that follow make up for each error.

Frantar et al.: GPTQ (ICLR 2023), after Optimal Brain Surgeon (Hassibi, Stork 1993). What counts is
the layer's output: where two inputs are alike, a weight rounded up is balanced by one rounded down.
Layers are done in order, on the inputs that the layers quantized before give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.channels import Sliced
from leangan.graph.rewrite import tensor_of
from leangan.techniques.codebook.kmeans import nearest
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.patches import (
    Layer,
    Rows,
    forward_weight,
    phases,
    read_layer,
    stored_weight,
)

_ROWS = 4
"""Positions for each input of a layer: neighbours are much alike."""
_LEAST_ROWS, _MOST_INPUTS = 4096, 4608
_DAMPING = 0.02
"""Share of the mean square of the inputs added to each, for what so few positions do not show."""

Books = Mapping[str, tuple[Tensor, Tensor]]
"""Per weight its levels float64 (books, levels), and the book of each output channel."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums come in one order, so that the same seed gives the same bytes on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def round_with_feedback(
    original: GraphModule,
    module: GraphModule,
    books: Books,
    free_biases: set[str],
    samples: Sequence[tuple[Tensor, ...]],
    seed: int,
    progress: Callable[[], None],
) -> None:
    """Change the weights of `module` to their levels, and biases to keep the outputs' means.

    Args:
        original: the float graph.
        module: a copy, changed in place.
        books: by path. Zeros of these weights stay.
        free_biases: paths of the biases that one layer alone reads.
        samples: calibration inputs.
        seed: of the choice of positions.
        progress: called after each layer.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        walk = Lockstep(original, Sliced(module, {}), samples)
        for node in walk.steps():
            layer = read_layer(module, node)
            if layer is None or str(layer.weight.target) not in books:
                continue
            weight = tensor_of(module, layer.weight)
            assert weight is not None
            levels, book = books[str(layer.weight.target)]
            # The walk took the layer for unchanged when it came to it.
            weight.copy_(_rounded(walk, layer, weight, levels, book, rng))
            walk.differs.add(node.name)
            walk.forget(node)
            if layer.bias is not None and str(layer.bias.target) in free_biases:
                _keep_mean(walk, node, layer)
            walk.values(node)
            progress()


def _rounded(
    walk: Lockstep, layer: Layer, weight: Tensor, levels: Tensor, book: Tensor, rng: torch.Generator
) -> Tensor:
    forward = forward_weight(layer, weight).double()
    kernel = tuple(forward.shape[3:])
    flat = forward.flatten(3).clone() if kernel else forward[..., None].clone()
    groups, outs, ins, _ = flat.shape
    shared = book.reshape(groups, outs)
    inputs = walk.values(layer.x)
    for phase in phases(layer, kernel):
        columns = ins * len(phase.taps)
        wanted = max(_LEAST_ROWS, _ROWS * columns)
        hessian = flat.new_zeros(groups, columns, columns)
        seen = 0
        if columns <= _MOST_INPUTS:
            zero = inputs[0].new_zeros(inputs[0].shape[layer.channel_axis])
            for x in inputs:
                rows = Rows(layer, kernel, x)
                count = rows.count(phase)
                take = min(count, -(-wanted // len(inputs)))
                chosen = torch.randperm(count, generator=rng)[:take]
                patches = rows.inputs(phase, chosen, zero)
                hessian += (patches.mT @ patches).double()
                seen += take
        for group in range(groups):
            part = flat[group][..., phase.taps].flatten(1)
            made = _columns(part, hessian[group], levels[shared[group]])
            flat[group][..., phase.taps] = made.unflatten(1, (ins, len(phase.taps)))
    return stored_weight(layer, flat.reshape(forward.shape)).to(weight.dtype).contiguous()


def _columns(weight: Tensor, hessian: Tensor, levels: Tensor) -> Tensor:
    """The rows of `weight` at their `levels`, column by column, the strongest input first."""
    strength = hessian.diagonal()
    mean = float(strength.mean())
    if not mean > 0:
        return _snap(weight, weight, levels)
    order = strength.argsort(descending=True, stable=True)
    sorted_ = hessian[order][:, order]
    sorted_.diagonal().add_(_DAMPING * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(sorted_))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left = weight[:, order].float().clone()
    start = left.clone()
    steps = (factor / factor.diagonal()[:, None]).float()
    for column in range(left.shape[1]):
        value = left[:, column : column + 1]
        rounded = _snap(value, start[:, column : column + 1], levels)
        error = value - rounded
        left[:, column + 1 :] -= error * steps[column, column + 1 :]
        left[:, column : column + 1] = rounded
    made = torch.empty_like(weight)
    made[:, order] = left.double()
    return made


def _snap(values: Tensor, before: Tensor, levels: Tensor) -> Tensor:
    taken = levels.gather(1, nearest(values, levels)).to(values.dtype)
    return torch.where(before == 0, 0.0, taken)


def _keep_mean(walk: Lockstep, node: Node, layer: Layer) -> None:
    """Shift the bias by what the mean of each output channel lost on the samples."""
    bias = tensor_of(walk.changed, layer.bias)
    assert bias is not None
    axis = layer.channel_axis
    lost, seen = torch.zeros(len(bias), dtype=torch.float64), 0
    for old, new in zip(walk.originals(node), walk.values(node), strict=True):
        difference = (old.double() - new.double()).movedim(axis, 0).flatten(1)
        lost += difference.sum(1)
        seen += difference.shape[1]
    bias.add_((lost / max(1, seen)).to(bias.dtype))
    walk.forget(node)
