"""A generator's first and last layers at half the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.depth_to_space import depth_to_space
from leangan.graph.observe import observe
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.rewrite import layer_name, recapture, replace_tensor, tensor_of, tidy
from leangan.techniques.lighten.ends import NORMS, End, Layer, ends
from leangan.techniques.order import refuse_quantized

_PIXELS = 4
"""Of a cell: two rows of two."""


def half_ends(generator: Generator, samples: Sequence[tuple[Tensor, ...]]) -> Generator:
    """First and last layers on cells of 2x2 pixels, whose four pixels are channels.

    conv(k) -> norm, activation -> conv(3, stride 2)
    becomes
    conv(k + 1, stride 2) to four times the channels -> norm, activation -> conv(2)

    and at the other end

    transposed conv(3, stride 2) -> norm, activation -> conv(k)
    becomes
    conv(2) to four times the channels -> norm, activation -> conv((k + 1) / 2) -> depth-to-space

    CPUs compute outputs of one place by sixteens, which few channels do not fill. The new kernels
    hold what the old ones held, and zeros that training may use.

    The same function but at the borders, where padding is moved in front of the first layer, and
    in instance norms, which see each of the four pixels by itself: how these differ from the whole
    map in the mean of the samples goes to their scales and shifts.

    Args:
        generator: float.
        samples: inputs to take statistics of.

    Raises:
        UsageError: the generator is quantized, or there is no data.
        LeanganError: it has neither of the two.
    """
    refuse_quantized(generator, "half-ends")
    if not samples:
        raise UsageError("Statistics are taken of data, and there is none.")
    module = generator.module()
    found = list(ends(generator, module))
    if not found:
        raise LeanganError(
            f"{generator.name} neither begins with a convolution in front of one of stride 2, nor "
            "ends with one behind a transposed convolution of stride 2: it has no end to halve."
        )
    names = [layer_name(layer.conv.node) for end in found for layer in (end.first, end.last)]
    seen = [_Pixels(_shift(end)) for end in found]
    nodes = [end.first.conv.node.name for end in found]
    observe(module, samples, {name: [one] for name, one in zip(nodes, seen, strict=True)})
    for end, pixels in zip(found, seen, strict=True):
        _replace(module, end, pixels)
    tidy(module)
    return recapture(generator, module, Step("half_ends", {}, {"layers": names}))


@dataclass
class _Pixels:
    """How each pixel of a cell stands to the whole map, per channel, in the mean of samples."""

    shift: int
    scales: list[Tensor] = field(default_factory=list)
    """Per sample (4, channels): its deviation, over the whole map's."""
    shifts: list[Tensor] = field(default_factory=list)
    """Per sample (4, channels): its mean less the whole map's, over that's deviation."""

    def see(self, value: Tensor) -> None:
        places = [(pixel + self.shift) % 2 for pixel in range(2)]
        cells = torch.stack([value[:, :, a::2, b::2].flatten(2) for a in places for b in places])
        whole = value.flatten(2)
        deviation = whole.std(2).clamp_min(1e-12)
        self.scales.append((cells.std(3) / deviation).mean(1))
        self.shifts.append(((cells.mean(3) - whole.mean(2)) / deviation).mean(1))

    def mean(self) -> tuple[Tensor, Tensor]:
        """Scales and shifts, (4 * channels) each, as the channels of cells."""
        scales, shifts = (torch.stack(x).mean(0).flatten() for x in (self.scales, self.shifts))
        return scales, shifts


@dataclass(frozen=True)
class _Axis:
    """How a convolution on cells reads along rows or columns."""

    offset: int
    """From the place of an output to the first that it reads."""
    taps: Tensor
    """(pixels out, pixels in, kernel, old kernel): 1 where a new tap holds an old one."""

    @property
    def reach(self) -> int:
        """From the place of an output to the last that it reads."""
        return self.offset + self.taps.shape[2] - 1


def _shift(end: End) -> int:
    """Cell j holds the positions 2 * j - shift and the next: what the second layer reads whole."""
    return end.padding % 2 if end.rises else 1


def _axis(layer: Layer, padding: int, out: int | None, into: int | None) -> _Axis:
    """How a layer reads from cells or puts out cells of these shifts; None where there are none."""
    (stride, _), size = layer.conv.stride, layer.weight.shape[2]
    found = []
    for pixel in range(1 if out is None else 2):
        for tap in range(size):
            if layer.conv.transposed:
                place, rest = divmod(pixel - (out or 0) + padding - tap, stride)
                if rest:
                    continue
            else:
                place = stride * (pixel - (out or 0)) - padding + tap
            cell, inside = (place, 0) if into is None else divmod(place + into, 2)
            found.append((pixel, inside, cell, tap))
    cells = [cell for _, _, cell, _ in found]
    pixels = [1 if shift is None else 2 for shift in (out, into)]
    taps = torch.zeros(*pixels, max(cells) - min(cells) + 1, size)
    for pixel, inside, cell, tap in found:
        taps[pixel, inside, cell - min(cells), tap] = 1
    return _Axis(min(cells), taps)


def _replace(module: GraphModule, end: End, pixels: _Pixels) -> None:
    graph, shift = module.graph, _shift(end)
    if end.rises:
        first = _axis(end.first, 1, shift, None)
        last = _axis(end.last, end.padding, 0, shift)
        amounts = [-(last.offset + first.offset), last.reach + first.reach]
        x = end.first.conv.x
    else:
        first = _axis(end.first, end.padding, shift, None)
        last = _axis(end.last, 1, None, shift)
        # Of the first row's first cell and the last row's last one, in pixels beyond the picture.
        amounts = [-(2 * last.offset + first.offset), 2 * (last.reach - 1) + first.reach + 1]
        x = end.source
    node, end_node = end.first.conv.node, end.last.conv.node
    with graph.inserting_before(node):
        padded = graph.call_function(aten.pad.default, (x, amounts * 2, end.mode))
    y = _convolve(module, end.first, first, padded, 1 if end.rises else 2)
    node.replace_all_uses_with(y)
    graph.erase_node(node)
    for between in end.between:
        if is_call(between, *NORMS):
            _repeat(module, between, pixels)
    y = _convolve(module, end.last, last, end.between[-1] if end.between else y, 1)
    if end.rises:
        with graph.inserting_before(end_node):
            shape = end_node.meta["val"].shape
            y = depth_to_space(graph, y, len(end.last.weight), (2, 2), shape)
    end_node.replace_all_uses_with(y)
    graph.erase_node(end_node)


def _convolve(module: GraphModule, layer: Layer, axis: _Axis, x: Node, stride: int) -> Node:
    """The layer on cells, without padding, in front of what it was."""
    node, weight, taps = layer.conv.node, layer.weight, axis.taps.to(layer.weight)
    if layer.conv.transposed:
        weight = weight.transpose(0, 1)
    kernel = torch.einsum("caut,dbvr,oitr->cdoabiuv", taps, taps, weight)
    kernel = kernel.flatten(3, 5).flatten(0, 2)
    new_weight = replace_tensor(module, node, layer.conv.weight, kernel)
    new_bias = None
    if layer.conv.bias is not None and layer.bias is not None:
        repeated = layer.bias.repeat(len(kernel) // len(layer.bias))
        new_bias = replace_tensor(module, node, layer.conv.bias, repeated)
    with module.graph.inserting_before(node):
        return module.graph.call_function(
            aten.conv2d.default, (x, new_weight, new_bias, [stride, stride])
        )


def _repeat(module: GraphModule, norm: Node, pixels: _Pixels) -> None:
    """Each number per channel of a norm or PReLU four times, once for each pixel of a cell."""
    new = {
        old: tensor.detach().repeat(_PIXELS)
        for old in norm.all_input_nodes[1:]
        if (tensor := tensor_of(module, old)) is not None and tensor.numel() > 1
    }
    if is_call(norm, aten.instance_norm):
        named = arguments(norm)
        scales, shifts = pixels.mean()
        new[named["bias"]] += new[named["weight"]] * shifts
        new[named["weight"]] *= scales
    for old, value in new.items():
        norm.replace_input_with(old, replace_tensor(module, norm, old, value))
