"""Convolutions that take the place of one: how they are called, and fitted to the one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from leangan.graph.operators import Convolution
from leangan.techniques.least_squares import Sums, draw, pieces, refit, share_out

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_ROWS = 16384
"""Positions to fit to."""


@dataclass(frozen=True)
class Part:
    """One of the convolutions that follow each other: weight (out, in / groups, ...)."""

    weight: Tensor
    groups: int = 1


@dataclass(frozen=True)
class Call:
    """The further arguments of a part, per spatial axis."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]


def calls(conv: Convolution, parts: Sequence[Part]) -> list[Call]:
    """How the parts are called so that they see what `conv` saw.

    Along each axis the first part with a kernel there pads for all, the last one leaves out places.
    """
    assert conv.padding is not None
    wide = [
        [i for i, part in enumerate(parts) if part.weight.shape[axis] > 1] or [0]
        for axis in range(2, 2 + conv.axes)
    ]
    return [
        Call(
            [s if i == w[-1] else 1 for s, w in zip(conv.stride, wide, strict=True)],
            [p if i == w[0] else 0 for p, w in zip(conv.padding, wide, strict=True)],
            [d if i in w else 1 for d, w in zip(conv.dilation, wide, strict=True)],
        )
        for i in range(len(parts))
    ]


def together(parts: Sequence[Part]) -> Tensor:
    """The one kernel (out, in, ...) that parts are which follow each other without padding."""

    def behind(first: Tensor, second: Tensor) -> Tensor:
        axes = tuple(range(2, second.dim()))
        padding = [n - 1 for n in second.shape[2:]]
        convolve = _CONVOLVE[len(axes)]
        return convolve(first.transpose(0, 1), second.flip(axes), padding=padding).transpose(0, 1)

    return functools.reduce(behind, map(_ungrouped, parts))


def _ungrouped(part: Part) -> Tensor:
    """Its kernel (out, in, ...), zero where a group does not read."""
    if part.groups == 1:
        return part.weight
    weight = part.weight.unflatten(0, (part.groups, -1))
    outs, ins, *kernel = weight.shape[1:]
    whole = weight.new_zeros(part.groups, outs, part.groups, ins, *kernel)
    place = torch.arange(part.groups)
    whole[place, :, place] = weight
    return whole.flatten(2, 3).flatten(0, 1)


def fit_last(
    parts: Sequence[Part],
    conv: Convolution,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    bias: Tensor | None,
) -> tuple[list[Part], Tensor | None]:
    """The last part, and the bias, by least squares at some positions.

    Args:
        parts: the last of one group.
        conv: whose place they take.
        inputs: what it reads now, [N, C, ...] each.
        targets: what it should put out, its bias included where that may change.
        bias: None where there is none, or another layer reads it too.

    Returns:
        Those that there were, for each output that nothing else fits better on positions that it
        was not fitted to.
    """
    *first, last = parts
    *before, at_last = calls(conv, parts)
    old = last.weight.flatten(1).T.double()
    if bias is not None:
        old = torch.cat([old, bias[None].double()])
    sums = Sums.empty(1, *old.shape), Sums.empty(1, *old.shape)
    wanted = pieces(targets)
    places = draw([y[0, 0].numel() for y in wanted], _ROWS)
    for i, (x, y, some) in enumerate(zip(pieces(inputs), wanted, places, strict=True)):
        for part, call in zip(first, before, strict=True):
            x = _CONVOLVE[conv.axes](
                x, part.weight, None, call.stride, call.padding, call.dilation, part.groups
            )
        rows = _patches(x, last.weight.shape[2:], at_last)[some]
        if bias is not None:
            rows = F.pad(rows, (0, 1), value=1.0)
        share_out(sums, i, len(wanted), rows[None], y[0].flatten(1).T[some][None])
    found = refit(*sums, old[None], constant=bias is not None)[0].float()
    kernel = found if bias is None else found[:-1]
    made = [*first, Part(kernel.T.reshape(last.weight.shape).contiguous())]
    return made, None if bias is None else found[-1]


def _patches(x: Tensor, kernel: Sequence[int], call: Call) -> Tensor:
    """What a kernel reads at each position of one input: (positions, channels * taps)."""
    x = F.pad(x[0], [p for padding in reversed(call.padding) for p in (padding, padding)])
    axes = len(kernel)
    for axis in range(axes):
        reach = (kernel[axis] - 1) * call.dilation[axis] + 1
        x = x.unfold(1 + axis, reach, call.stride[axis])[..., :: call.dilation[axis]]
    return x.movedim(0, axes).flatten(axes).flatten(0, axes - 1)
