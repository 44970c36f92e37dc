"""Which layers of a quantized generator LiteRT runs in 8 bits, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.observe import Reach, observe
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import layer_name, tensor_of
from leangan.techniques.layer_code import channel_axis
from leangan.techniques.placement import source_of

_q = torch.ops.quantized_decomposed
_MARGIN = 1.05
"""How much wider than what was seen in calibration an output's range is taken."""
_MARGIN_UNSEEN = 1.3
"""The same where nothing is known of calibration, and random inputs tell the range."""
_EXAMPLES = 4
_KEYS = ("low", "high", "deviation")


@dataclass(frozen=True)
class IntegerLayer:
    """A layer whose weight has one scale per output channel and zero points of 0."""

    node: Node
    codes: Tensor
    """int8, shaped as the weight."""
    scales: Tensor
    """float32 [out channels]."""
    axis: int
    """Of the output channels in the weight."""


@dataclass(frozen=True)
class Bounds:
    """How far each channel of a layer's output goes: float32 [out channels] each."""

    low: Tensor
    high: Tensor
    deviation: Tensor
    """The usual standard deviation."""

    @property
    def crest(self) -> float:
        """The half of the range as a multiple of the deviation, in the median over channels."""
        return float(((self.high - self.low) / 2 / self.deviation).nanmedian())

    def widest(self) -> Bounds:
        """One range for all channels, around 0."""
        reach = torch.maximum(self.high, -self.low).max().reshape(1)
        return Bounds(-reach, reach, self.deviation.square().mean().sqrt().reshape(1))

    def times(self, factors: Tensor) -> Bounds:
        """Of the output times positive factors per channel."""
        return Bounds(self.low * factors, self.high * factors, self.deviation * factors)


def integer_layer(module: GraphModule, node: Node) -> IntegerLayer | None:
    """`node` as such a layer; None for every other node."""
    conv = read_convolution(node)
    if conv is None and not is_call(node, aten.linear):
        return None
    if not is_call(source_of(node)[0], _q.dequantize_per_tensor):
        return None
    transposed = conv is not None and conv.transposed
    if conv is not None and transposed and conv.groups > 1:
        return None
    weight, bias = arguments(node)["weight"], arguments(node)["bias"]
    if bias is not None and tensor_of(module, bias) is None:
        return None
    if not is_call(weight, _q.dequantize_per_channel, _q.dequantize_per_tensor):
        return None
    named, axis = arguments(weight), int(transposed)
    codes = tensor_of(module, named["input"])
    if codes is None or codes.dtype != torch.int8:
        return None
    if is_call(weight, _q.dequantize_per_tensor):
        scales = torch.full((codes.shape[axis],), float(named["scale"]))
        symmetric = named["zero_point"] == 0
    else:
        stored, zeros = tensor_of(module, named["scales"]), tensor_of(module, named["zero_points"])
        if stored is None or zeros is None or named["axis"] != axis:
            return None
        scales, symmetric = stored.detach().float(), not bool(zeros.any())
    return IntegerLayer(node, codes, scales, axis) if symmetric else None


def output_bounds(
    generator: Generator, module: GraphModule, layers: Sequence[IntegerLayer]
) -> dict[Node, Bounds]:
    """How far the outputs of layers of `module`, the generator's graph, go, with some margin.

    As calibration saw it; by random inputs where the history tells nothing.
    """
    known: dict[str, dict[str, list[float]]] = {}
    for step in generator.history:
        known |= step.measured.get("reach", {})
    nodes = {layer.node: layer_name(layer.node) for layer in layers}
    if all(name in known for name in nodes.values()):
        return {
            node: _widened(low, high, deviation, _MARGIN)
            for node, name in nodes.items()
            for low, high, deviation in [[torch.tensor(known[name][key]) for key in _KEYS]]
        }
    seen = {node: Reach(channel_axis(node)) for node in nodes}
    samples = [generator.example(seed=seed) for seed in range(_EXAMPLES)]
    observe(module, samples, {node.name: [reach] for node, reach in seen.items()})
    return {n: _widened(r.low, r.high, r.deviation, _MARGIN_UNSEEN) for n, r in seen.items()}


def _widened(low: Tensor, high: Tensor, deviation: Tensor, margin: float) -> Bounds:
    more = (high - low) / 2 * (margin - 1)
    return Bounds(low - more, high + more, deviation)
