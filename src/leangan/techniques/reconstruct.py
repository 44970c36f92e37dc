"""Refit what is left of a pruned network to the original's feature maps, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.channels import Sliced
from leangan.graph.operators import aten, is_call, only_user
from leangan.graph.rewrite import tensor_of
from leangan.techniques.least_squares import Sums, draw, pieces, refit, share_out
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.patches import (
    Layer,
    Phase,
    Rows,
    forward_weight,
    phases,
    read_layer,
    stored_weight,
)
from leangan.techniques.refit_norms import match_norm, match_statistics

_ROWS = 8
"""Rows for each unknown: neighbouring positions are much alike, so that more tell little new."""
_LEAST_ROWS = 4096
_MOST_UNKNOWNS = 4608
"""Larger systems would take minutes; their kernels get the channel mixing alone."""


def reconstruct(
    generator: Generator,
    sliced: Sliced,
    samples: Sequence[tuple[Tensor, ...]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Refit the weights of a graph that lost channels by least squares against the original.

    Both graphs are walked once, in lockstep. Each convolution and linear layer whose input is not
    the original's any more gets the kernel and bias with which its output, on the pruned network's
    own input, comes nearest to the original's output in the channels that were kept. So what a
    removed map shared with others is taken over by those, its mean by the bias, and a layer makes
    up for errors of the layers before it. In the line of ThiNet (Luo et al. 2017) and channel
    pruning (He et al. 2017), with all taps of a kernel as unknowns. Scale and shift of norms are
    matched in the same way, and running statistics are estimated again.

    The ridge that keeps the new weights near the old is chosen on inputs held out from the fit, and
    an output channel for which nothing does better there keeps its weights: little data may help
    little, but it does not harm. Weights that are computed, or that several layers share, stay.

    Args:
        generator: the original, left as it is.
        sliced: its graph without some channels; `sliced.module` is changed in place.
        samples: calibration inputs, six pictures or more. As many are used, from the first, as
            fit into 3 GiB with their feature maps.
        progress: called with (layers done, layers in all).

    Raises:
        UsageError: no samples.
        LeanganError: the nodes of both graphs differ.
    """
    if not samples:
        raise UsageError("Refitting weights needs at least one calibration input; there is none.")
    module = sliced.module
    with torch.no_grad():
        walk = Lockstep(generator.module(), sliced, samples)
        readers = _readers(module)
        total = sum(read_layer(module, node) is not None for node in module.graph.nodes)
        done = 0
        for node in walk.steps():
            layer = read_layer(module, node)
            done += layer is not None
            stored = [tensor_of(module, n) for n in node.all_input_nodes]
            own = all(readers[_key(t)] == 1 for t in stored if t is not None)
            inputs_differ = any(n.name in walk.differs for n in node.all_input_nodes)
            if own and inputs_differ:
                if layer is not None:
                    _refit_layer(walk, layer)
                else:
                    match_statistics(walk, node)
                    match_norm(walk, node)
            if layer is not None and progress is not None:
                progress(done, total)


def _key(tensor: Tensor) -> tuple[int, ...]:
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), *tensor.shape


def _readers(module: GraphModule) -> Counter[tuple[int, ...]]:
    """How many operators read each stored tensor, under whatever name."""
    found: Counter[tuple[int, ...]] = Counter()
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = tensor_of(module, node)
        if tensor is not None:
            found[_key(tensor)] += len(node.users)
    return found


def _refit_layer(walk: Lockstep, layer: Layer) -> None:
    """Change weight and bias of one layer, before its values are computed."""
    weight = tensor_of(walk.changed, layer.weight)
    bias = tensor_of(walk.changed, layer.bias)
    assert weight is not None
    old = forward_weight(layer, weight.float())  # [G, O, I, *taps]
    kernel = tuple(old.shape[3:])
    old = old.flatten(3) if kernel else old[..., None]
    problem = _Problem(walk, layer, kernel)
    constant = old.new_zeros(old.shape[0] * old.shape[1]) if bias is None else bias.float()
    mixed, mixed_constant = _mixed(walk, layer, old, constant)
    parts = phases(layer, kernel)
    intercept = bias is not None and len(parts) == 1
    new = old.clone()
    for phase in parts:
        unknowns = old.shape[2] * len(phase.taps)
        if unknowns > _MOST_UNKNOWNS:
            new[..., phase.taps] = mixed[..., phase.taps]
            continue
        train, held, shift = problem.sums(
            phase, old.shape, intercept, None if bias is None else mixed_constant
        )

        def flat(w: Tensor, b: Tensor, phase: Phase = phase, shift: Tensor = shift) -> Tensor:
            taps = w[..., phase.taps]
            if not intercept:
                return taps.flatten(2).mT.double()
            moved = b.reshape(w.shape[:2]) + _moved(taps, shift)
            return torch.cat([taps.flatten(2), moved[..., None]], 2).mT.double()

        found = refit(
            train,
            held,
            flat(old, constant),
            [flat(mixed, mixed_constant)],
            constant=intercept,
        )
        found = found.mT.float()
        new[..., phase.taps] = found[..., :unknowns].unflatten(2, (old.shape[2], -1))
        if intercept and bias is not None:
            bias.copy_((found[..., -1] - _moved(new[..., phase.taps], shift)).flatten())
    weight.copy_(stored_weight(layer, new.unflatten(3, kernel) if kernel else new[..., 0]))
    if bias is not None and not intercept:
        bias.copy_(mixed_constant)
        _centre(walk, layer, bias)


def _moved(taps: Tensor, shift: Tensor) -> Tensor:
    """What a kernel [G, O, I, taps] makes of the constant input `shift`: [G, O]."""
    return (taps.sum(3) * shift.reshape(taps.shape[0], 1, -1)).sum(2)


def _centre(walk: Lockstep, layer: Layer, bias: Tensor) -> None:
    """Move the bias so that the mean of the output is the original's."""
    errors = [
        (t - y).movedim(layer.channel_axis, 0).flatten(1).mean(1)
        for t, y in zip(walk.originals(layer.node), walk.values(layer.node), strict=True)
    ]
    bias += torch.stack(errors).mean(0)
    walk.forget(layer.node)


class _Problem:
    """The rows of one layer's least squares."""

    def __init__(self, walk: Lockstep, layer: Layer, kernel: tuple[int, ...]) -> None:
        self.layer = layer
        user = only_user(layer.node)
        self.saturating = user if is_call(user, aten.tanh, aten.sigmoid) else None
        self.inputs = pieces(walk.values(layer.x))
        self.targets = pieces(walk.originals(layer.node))
        self.rows = [Rows(layer, kernel, x.float()) for x in self.inputs]

    def sums(
        self, phase: Phase, shape: torch.Size, intercept: bool, constant: Tensor | None
    ) -> tuple[Sums, Sums, Tensor]:
        """Rows to fit, rows held out, and what was taken off the input.

        Args:
            phase: where the rows are taken.
            shape: of the weight, [G, O, I, taps].
            intercept: a constant is fitted as the last unknown.
            constant: [G * O], what is taken off the output where it is not fitted.
        """
        groups, outputs, inputs = shape[:3]
        unknowns = inputs * len(phase.taps) + intercept
        axis = self.layer.channel_axis
        means = [x.float().movedim(axis, 0).flatten(1).mean(1) for x in self.inputs]
        shift = torch.stack(means).mean(0) if intercept else torch.zeros_like(means[0])
        counts = [rows.count(phase) for rows in self.rows]
        chosen = draw(counts, max(_LEAST_ROWS, _ROWS * unknowns))
        found = Sums.empty(groups, unknowns, outputs), Sums.empty(groups, unknowns, outputs)
        for piece, (places, rows) in enumerate(zip(chosen, self.rows, strict=True)):
            x = rows.inputs(phase, places, shift)
            y = rows.outputs(self.targets[piece].float(), phase, places)
            weight = self._weight(y)
            if constant is not None and not intercept:
                y = y - constant.reshape(groups, 1, outputs)
            if intercept:
                x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
            if weight is not None:
                x, y = x * weight, y * weight
            share_out(found, piece, len(self.rows), x, y)
        return (*found, shift)

    def _weight(self, y: Tensor) -> Tensor | None:
        """The root of a row's weight: errors where the output saturates are not seen.

        1.0 dB on an SRGAN that ends in tanh.
        """
        if self.saturating is None:
            return None
        if is_call(self.saturating, aten.tanh):
            slope = 1 - y.tanh().square()
        else:
            slope = y.sigmoid() * (1 - y.sigmoid())
        return slope.square().mean((0, 2)).sqrt()[None, :, None] + 1e-3


def _mixed(walk: Lockstep, layer: Layer, old: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """The original's kernel on the original's input as the pruned input best explains it.

    Each input channel of the original is a mixture of the channels that are left, the same at all
    positions; that needs far fewer data than a whole kernel.

    Returns:
        A weight like `old` [1, O, I, taps] and a bias like `constant`; these themselves where the
        layer has groups.
    """
    before = read_layer(walk.original, walk.node(layer.node.name))
    if before is None or before.groups != 1 or layer.groups != 1:
        return old, constant
    weight = tensor_of(walk.original, before.weight)
    assert weight is not None
    whole = forward_weight(before, weight.float())
    whole = whole.flatten(3) if whole.dim() > 3 else whole[..., None]
    axis = layer.channel_axis
    outputs = walk.axis_kept(layer.node, axis)
    if outputs is not None:
        whole = whole[:, outputs]
    inputs, channels = old.shape[2], whole.shape[2]
    kept = walk.axis_kept(layer.x, axis)
    kept = torch.arange(channels) if kept is None else kept
    xs = [x.float().movedim(axis, -1).flatten(0, -2) for x in pieces(walk.values(layer.x))]
    ys = [
        y.float().movedim(axis, -1).flatten(0, -2)
        for y in pieces(walk.originals(layer.x, whole_axis=axis))
    ]
    shift = torch.stack([x.mean(0) for x in xs]).mean(0)
    found = Sums.empty(1, inputs + 1, channels), Sums.empty(1, inputs + 1, channels)
    chosen = draw([len(x) for x in xs], max(_LEAST_ROWS, _ROWS * inputs))
    for piece, (places, x, y) in enumerate(zip(chosen, xs, ys, strict=True)):
        rows = torch.cat([x[places] - shift, x.new_ones(len(places), 1)], 1)
        share_out(found, piece, len(xs), rows[None], y[places][None])
    select = torch.zeros(1, inputs + 1, channels, dtype=torch.float64)
    select[0, torch.arange(inputs), kept] = 1
    select[0, -1, kept] = shift.double()
    mixture = refit(*found, select, constant=True)[0].float()
    mix, left = mixture[:-1], mixture[-1] - shift @ mixture[:-1]
    return (
        torch.einsum("goct,kc->gokt", whole, mix),
        constant + torch.einsum("goct,c->o", whole, left),
    )
