"""Transposed convolutions as a nearest resize and a plain convolution."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError
from leangan.generator import Generator, Step
from leangan.graph.operators import Convolution, aten, read_convolution
from leangan.graph.rewrite import layer_name, recapture, replace_tensor, tensor_of, tidy
from leangan.techniques.order import refuse_quantized

_NEAREST = {1: aten.upsample_nearest1d.vec, 2: aten.upsample_nearest2d.vec}
_PLAIN = {1: aten.conv1d.default, 2: aten.conv2d.default}


def resize(generator: Generator) -> Generator:
    """Strided transposed convolutions as nearest resize and convolution, by least squares.

    No checkerboards (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"), and operators
    that every runtime has fast kernels for. A kernel of 4x4 at stride 2 becomes one of 3x3, one
    of 16 at stride 8 becomes one of 9; at the higher resolution they are more work, not less,
    unless a runtime computes both at once (`graph.transposed.upsample_as_shuffle`).

    The two are a transposed convolution whose taps are sums of as many neighbours of the plain
    kernel as the stride has. The plain kernel is that whose sums are nearest to the old taps:
    coarse where these are rough, so training has to follow.

    Those whose output is not the input's size times the stride stay as they are.

    Raises:
        UsageError: the generator is quantized.
        LeanganError: there is no such transposed convolution.
    """
    refuse_quantized(generator, "resize")
    module = generator.module()
    changed: dict[str, dict[str, Any]] = {}
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        weight = None if conv is None else tensor_of(module, conv.weight)
        if conv is None or weight is None or not _fits(conv, weight):
            continue
        kernel, padding, error = _nearest(conv, weight.detach())
        _replace(module, conv, kernel, padding)
        changed[layer_name(node)] = {"kernel": list(kernel.shape[2:]), "error": error}
    if not changed:
        raise LeanganError(
            f"{generator.name} has no strided transposed convolution that makes its input as many "
            "times larger as its stride: there is nothing to resize."
        )
    tidy(module)
    return recapture(generator, module, Step("resize", {}, {"layers": changed}))


def _fits(conv: Convolution, weight: Tensor) -> bool:
    if not conv.transposed or conv.axes not in _NEAREST or conv.padding is None:
        return False
    if set(conv.stride) == {1} or set(conv.dilation) != {1}:
        return False
    axes = zip(weight.shape[2:], conv.stride, conv.padding, conv.output_padding, strict=True)
    return all(k + more - 2 * p == s for k, s, p, more in axes)


def _nearest(conv: Convolution, weight: Tensor) -> tuple[Tensor, list[int], float]:
    """The plain kernel, its padding, and the share of the old kernel's energy that it misses."""
    assert conv.padding is not None
    # (in, out / groups, ...) to (out, in / groups, ...)
    kernel = weight.double().unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)
    wanted = made = kernel
    margins = []
    for axis, (stride, padding) in enumerate(zip(conv.stride, conv.padding, strict=True), 2):
        size = weight.shape[axis]
        margin = max(padding, size - stride - padding)
        sums = _sums(stride, margin)
        # The old kernel at the places of the sums, which may reach further.
        placed = torch.eye(len(sums), dtype=torch.float64)[:, margin - padding :][:, :size]
        nearest = torch.linalg.pinv(sums) @ placed
        wanted, kernel = _along(axis, wanted, placed), _along(axis, kernel, nearest)
        made = _along(axis, made, sums @ nearest)
        margins.append(margin)
    missed = (made - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30)
    return kernel.to(weight.dtype), margins, float(missed)


def _along(axis: int, x: Tensor, matrix: Tensor) -> Tensor:
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


@functools.cache
def _sums(stride: int, margin: int) -> Tensor:
    """(2 * margin + stride, 2 * margin + 1): what each tap of the transposed kernel sums up.

    With o = stride * i + d, the resized input at o + j - margin is x[i] where that lies in
    stride * i to stride * i + stride - 1: tap d sums the plain taps margin - d to
    margin - d + stride - 1. Rows are d = -margin to margin + stride - 1.
    """
    d = torch.arange(-margin, margin + stride)[:, None]
    j = torch.arange(2 * margin + 1)
    return ((j >= margin - d) & (j < margin - d + stride)).double()


def _replace(module: GraphModule, conv: Convolution, kernel: Tensor, padding: list[int]) -> None:
    node: Node = conv.node
    weight = replace_tensor(module, node, conv.weight, kernel)
    with module.graph.inserting_before(node):
        rates = [float(s) for s in conv.stride]
        large = module.graph.call_function(_NEAREST[conv.axes], (conv.x, None, rates))
        ones = [1] * conv.axes
        plain = module.graph.call_function(
            _PLAIN[conv.axes], (large, weight, conv.bias, ones, padding, ones, conv.groups)
        )
    node.replace_all_uses_with(plain)
    module.graph.erase_node(node)
