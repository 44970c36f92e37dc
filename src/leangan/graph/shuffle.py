"""Sinking a pixel shuffle below what follows it, so that a tail runs at low resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.operators import Convolution, aten, only_user, read_convolution
from leangan.graph.pointwise import reads_by_channel, replay
from leangan.graph.rewrite import exact, replace_tensor, tensor_of
from leangan.graph.weights import stored_pair

MOST_MACS = 2.0
"""How many times the multiplications of a convolution may grow. Low resolution and wide channels
make up for a little, not for the four times that a 3x3 convolution would take."""


@exact("sink-shuffle", "convolutions")
def sink_shuffle(module: GraphModule) -> int:
    """Move a pixel shuffle below the pointwise operators and the convolution that follow it.

    x -> shuffle(r) -> prelu -> conv(k) -> tanh -> y
    becomes
    x -> prelu -> conv(about k / r) of r * r times the channels, in and out -> tanh -> shuffle(r)

    For convolutions of odd kernel, "same" zero padding, stride, dilation and groups 1, where it
    takes no more than twice the multiplications; repeated until nothing changes.
    """
    count = 0
    while any(
        _sink(module, n)
        for n in module.graph.find_nodes(op="call_function", target=aten.pixel_shuffle.default)
    ):
        count += 1
    return count


@dataclass(frozen=True)
class _Tail:
    """What follows a shuffle: pointwise operators, one convolution, pointwise operators."""

    before: tuple[Node, ...]
    conv: Convolution
    weight: Tensor
    after: tuple[Node, ...]


def _sink(module: GraphModule, shuffle: Node) -> bool:
    source, rate = shuffle.args
    assert isinstance(source, Node)
    assert isinstance(rate, int)
    tail = _tail(module, shuffle, rate)
    if tail is None:
        return False
    graph, conv, squared = module.graph, tail.conv, rate * rate
    weight = replace_tensor(module, conv.node, conv.weight, _sunk(tail.weight, rate))
    bias = _repeated(module, conv.node, conv.bias, squared)
    reach = [_reach(int(size), rate) // 2 for size in tail.weight.shape[2:]]

    def widened(constant: Tensor, axis: int) -> Tensor:
        return constant.repeat_interleave(squared, axis)

    x = replay(module, tail.before, shuffle, source, widened)
    with graph.inserting_before(conv.node):
        x = graph.call_function(aten.conv2d.default, (x, weight, bias, [1, 1], reach))
    x = replay(module, tail.after, conv.node, x, widened)
    last = tail.after[-1] if tail.after else conv.node
    with graph.inserting_before(last):
        y = graph.call_function(aten.pixel_shuffle.default, (x, rate))
    last.replace_all_uses_with(y)
    for node in reversed((shuffle, *tail.before, conv.node, *tail.after)):
        graph.erase_node(node)
    return True


def _tail(module: GraphModule, shuffle: Node, rate: int) -> _Tail | None:
    before, node = _pointwise_run(module, shuffle)
    conv = read_convolution(node)
    if conv is None or conv.x is not (before[-1] if before else shuffle):
        return None
    stored = stored_pair(module, conv)
    if stored is None:
        return None
    weight, _ = stored
    kernel = [int(k) for k in weight.shape[2:]]
    if conv.transposed or conv.groups != 1 or {*conv.stride, *conv.dilation} != {1}:
        return None
    if conv.padding is None or any(
        2 * p + 1 != k for p, k in zip(conv.padding, kernel, strict=True)
    ):
        return None
    grown = float(rate * rate)
    for size in kernel:
        grown *= _reach(size, rate) / size
    if grown > MOST_MACS:
        return None
    after, _ = _pointwise_run(module, conv.node)
    return _Tail(before, conv, weight, after)


def _reach(kernel: int, rate: int) -> int:
    """Taps at low resolution that hold all taps of a centred kernel, for every phase."""
    return 2 * -(-(kernel // 2) // rate) + 1


def _pointwise_run(module: GraphModule, start: Node) -> tuple[tuple[Node, ...], Node | None]:
    """The chain of pointwise operators that alone read `start`, and what comes after it."""
    run: list[Node] = []
    node = start
    while (user := only_user(node)) is not None and reads_by_channel(module, user, node):
        run.append(user)
        node = user
    return tuple(run), only_user(node)


def _repeated(module: GraphModule, user: Node, bias: Node | None, times: int) -> Node | None:
    tensor = tensor_of(module, bias)
    if bias is None or tensor is None:
        return None
    return replace_tensor(module, user, bias, tensor.detach().repeat_interleave(times))


def _sunk(weight: Tensor, rate: int) -> Tensor:
    """Kernel of `conv(shuffle(x))` on x itself: (out * r * r, in * r * r, taps, taps).

    Output row r * i + a reads row r * i + a + t - k // 2 = r * (i + d) + b of the shuffled map
    for its tap t: that is row i + d of input phase b.
    """
    for dim in (2, 3):
        size = weight.shape[dim]
        taps = _reach(size, rate)
        out = torch.arange(rate)[:, None, None]
        into = torch.arange(rate)[None, :, None]
        offset = torch.arange(taps)[None, None, :] - taps // 2
        index = rate * offset + into - out + size // 2
        index = torch.where((index < 0) | (index >= size), size, index)
        padded = torch.cat([weight, torch.zeros_like(weight.narrow(dim, 0, 1))], dim)
        # The axis becomes (out phase, in phase, taps); the phases go to the end for now.
        weight = padded.index_select(dim, index.flatten()).unflatten(dim, index.shape)
        weight = weight.movedim((dim, dim + 1), (-2, -1))
    # (out, in, taps, taps, row out, row in, column out, column in)
    return weight.permute(0, 4, 6, 1, 5, 7, 2, 3).flatten(3, 5).flatten(0, 2)
