"""Convolutions in place of one: where its stride, padding and dilation go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.operators import Convolution, read_convolution
from leangan.graph.rewrite import layer_name, new_tensor_node, recapture, tensor_of, tidy
from leangan.techniques.order import refuse_quantized

SMALLEST = 8
"""Channels below which a layer is left alone: what enters and leaves the picture."""


@dataclass(frozen=True)
class Part:
    """One of the convolutions that follow each other: weight (out, in / groups, ...)."""

    weight: Tensor
    groups: int = 1


Split = Callable[[Tensor], Sequence[Part] | None]
"""From a weight (out, in, ...) to what takes its place; None where it stays."""


def split_layers(
    generator: Generator, split: Split, step: Step, smallest: int = SMALLEST
) -> Generator:
    """Each plain convolution that `split` takes apart, as those parts.

    Args:
        generator: float.
        split: makes the parts; they see together what the kernel saw.
        step: what the history says.
        smallest: layers of fewer channels on either side are left alone.

    Raises:
        UsageError: the generator is quantized.
        LeanganError: nothing was split.
    """
    refuse_quantized(generator, step.name)
    module = generator.module()
    changed: dict[str, list[int]] = {}
    for node, conv, weight in list(_plain_convolutions(module, smallest)):
        parts = split(weight.detach())
        if parts is None:
            continue
        _replace(module, node, conv, parts)
        changed[layer_name(node)] = [weight.numel(), sum(p.weight.numel() for p in parts)]
    if not changed:
        raise LeanganError(f"{generator.name} has no convolution that {step.name} makes cheaper.")
    tidy(module)
    return recapture(generator, module, Step(step.name, step.settings, {"weights": changed}))


def check_share(name: str, share: float) -> None:
    """Refuse what is no share.

    Raises:
        UsageError: it does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"{name} leaves a share between 0 and 1; {share} is none.")


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


def _replace(module: GraphModule, node: Node, conv: Convolution, parts: Sequence[Part]) -> None:
    name = str(conv.weight.target).removesuffix(".weight")
    plain = getattr(torch.ops.aten, str(node.target).split(".")[1]).default
    assert conv.padding is not None
    # Along each axis the parts that have a kernel there: the first of them pads for all, the last
    # one leaves places out.
    wide = [
        [i for i, part in enumerate(parts) if part.weight.shape[axis] > 1] or [0]
        for axis in range(2, 2 + conv.axes)
    ]
    value = conv.x
    for i, part in enumerate(parts):
        weight = new_tensor_node(module, node, f"{name}_{i}.weight", part.weight)
        stride = [s if i == w[-1] else 1 for s, w in zip(conv.stride, wide, strict=True)]
        padding = [p if i == w[0] else 0 for p, w in zip(conv.padding, wide, strict=True)]
        dilation = [d if i in w else 1 for d, w in zip(conv.dilation, wide, strict=True)]
        bias = conv.bias if i == len(parts) - 1 else None
        with module.graph.inserting_before(node):
            value = module.graph.call_function(
                plain, (value, weight, bias, stride, padding, dilation, part.groups)
            )
    node.replace_all_uses_with(value)
    module.graph.erase_node(node)
