"""One convolution as two that cost less together, from the closest factors of its kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.operators import Convolution, read_convolution
from leangan.graph.rewrite import layer_name, new_tensor_node, recapture, tensor_of, tidy
from leangan.techniques.order import refuse_quantized

_SMALLEST = 8
"""Channels below which a layer is left alone: what enters and leaves the picture."""
_LARGE = 5
"""Kernels of this side or more are worth a column and a row."""


def low_rank(generator: Generator, share: float) -> Generator:
    """Convolutions as a narrow one and a 1x1 one behind it, by truncated SVD.

    W (out, in, k, k) ~ V (out, r, 1, 1) U (r, in, k, k), with the r that leaves `share` of the
    layer's multiply-accumulates (Zhang et al. 2016, "Accelerating Very Deep Convolutional
    Networks"). The two are the best of their rank for the weight itself.

    Args:
        generator: float.
        share: between 0 and 1.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """
    if not 0 < share < 1:
        raise UsageError(f"low_rank leaves a share between 0 and 1; {share} is none.")

    def split(weight: Tensor, conv: Convolution) -> tuple[Tensor, Tensor, int] | None:
        outs, ins, *kernel = weight.shape
        rank = int(share * weight.numel() / (ins * math.prod(kernel) + outs))
        if rank < 1 or rank >= min(outs, ins * math.prod(kernel)):
            return None
        u, s, v = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        root = s[:rank].sqrt()
        first = (root[:, None] * v[:rank]).reshape(rank, ins, *kernel)
        second = (u[:, :rank] * root).reshape(outs, rank, *(1 for _ in kernel))
        return first.float(), second.float(), 1

    return _split_layers(generator, split, Step("low_rank", {"share": share}))


def spatial(generator: Generator, share: float) -> Generator:
    """Large convolutions as one of a column of the kernel and one of a row, by truncated SVD.

    W (out, in, k, l) ~ H (out, r, 1, l) V (r, in, k, 1): two kernels of 9x1 and 1x9 see what one
    of 9x9 sees (Jaderberg, Vedaldi, Zisserman 2014). Those that enter and leave the picture are
    split too, which are the large ones in most generators.

    Args:
        generator: float.
        share: of the multiply-accumulates to leave of each such layer, between 0 and 1.

    Raises:
        UsageError: the share makes no sense, or the generator is quantized.
        LeanganError: there is no convolution of 5x5 or more that this would make cheaper.
    """
    if not 0 < share < 1:
        raise UsageError(f"spatial leaves a share between 0 and 1; {share} is none.")

    def split(weight: Tensor, conv: Convolution) -> tuple[Tensor, Tensor, int] | None:
        outs, ins, *kernel = weight.shape
        if len(kernel) != 2 or min(kernel) < _LARGE:
            return None
        rows, columns = ins * kernel[0], outs * kernel[1]
        rank = int(share * weight.numel() / (rows + columns))
        if rank < 1 or rank >= min(rows, columns):
            return None
        flat = weight.permute(1, 2, 0, 3).reshape(rows, columns)
        u, s, v = torch.linalg.svd(flat.double(), full_matrices=False)
        root = s[:rank].sqrt()
        first = (u[:, :rank] * root).T.reshape(rank, ins, kernel[0], 1)
        second = (root[:, None] * v[:rank]).reshape(rank, outs, 1, kernel[1]).transpose(0, 1)
        return first.float(), second.float().contiguous(), 1

    return _split_layers(generator, split, Step("spatial", {"share": share}), smallest=1)


def separable(generator: Generator) -> Generator:
    """Convolutions as a depthwise one and a 1x1 one behind it (MobileNet, Howard et al. 2017).

    W[o, i] ~ P[o, i] D[i]: per input channel the closest product of a kernel and a column, by SVD.
    This is coarse; training has to follow.

    Raises:
        UsageError: the generator is quantized.
        LeanganError: there is no convolution that this would make cheaper.
    """

    def split(weight: Tensor, conv: Convolution) -> tuple[Tensor, Tensor, int] | None:
        outs, ins, *kernel = weight.shape
        if math.prod(kernel) == 1:
            return None
        u, s, v = torch.linalg.svd(weight.flatten(2).transpose(0, 1).double(), full_matrices=False)
        root = s[:, 0].sqrt()
        depth = (root[:, None] * v[:, 0]).reshape(ins, 1, *kernel)
        point = (u[:, :, 0] * root[:, None]).T.reshape(outs, ins, *(1 for _ in kernel))
        return depth.float(), point.float(), ins

    return _split_layers(generator, split, Step("separable"))


def _split_layers(
    generator: Generator, split: Any, step: Step, smallest: int = _SMALLEST
) -> Generator:
    refuse_quantized(generator, step.name)
    module = generator.module()
    changed: dict[str, list[int]] = {}
    for node, conv, weight in list(_plain_convolutions(module, smallest)):
        parts = split(weight.detach(), conv)
        if parts is None:
            continue
        first, second, groups = parts
        _replace(module, node, conv, first, second, groups)
        changed[layer_name(node)] = [weight.numel(), first.numel() + second.numel()]
    if not changed:
        raise LeanganError(f"{generator.name} has no convolution that {step.name} makes cheaper.")
    tidy(module)
    return recapture(generator, module, Step(step.name, step.settings, {"weights": changed}))


def _plain_convolutions(
    module: GraphModule, smallest: int
) -> Iterator[tuple[Node, Convolution, Tensor]]:
    for node in module.graph.nodes:
        conv = read_convolution(node)
        if conv is None or conv.transposed or conv.groups != 1 or conv.padding is None:
            continue
        weight = tensor_of(module, conv.weight)
        if weight is not None and min(weight.shape[:2]) >= smallest:
            yield node, conv, weight


def _replace(
    module: GraphModule, node: Node, conv: Convolution, first: Tensor, second: Tensor, groups: int
) -> None:
    name = str(conv.weight.target).removesuffix(".weight")
    target: Any = node.target
    plain = getattr(torch.ops.aten, str(target).split(".")[1]).default
    nodes = [
        new_tensor_node(module, node, f"{name}_{part}.weight", value)
        for part, value in (("first", first), ("second", second))
    ]
    # Along each axis one of the two has the kernel, and with it stride, padding and dilation.
    later = [b > 1 and a == 1 for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]

    def shared(values: tuple[int, ...], usual: int, mine: bool) -> list[int]:
        return [v if late == mine else usual for v, late in zip(values, later, strict=True)]

    padding = conv.padding or ()
    with module.graph.inserting_before(node):
        inner = module.graph.call_function(
            plain,
            (conv.x, nodes[0], None, shared(conv.stride, 1, False), shared(padding, 0, False),
             shared(conv.dilation, 1, False), groups),
        )  # fmt: skip
        outer = module.graph.call_function(
            plain,
            (inner, nodes[1], conv.bias, shared(conv.stride, 1, True), shared(padding, 0, True),
             shared(conv.dilation, 1, True), 1),
        )  # fmt: skip
    node.replace_all_uses_with(outer)
    module.graph.erase_node(node)
