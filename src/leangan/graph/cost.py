"""What a generator costs: its layers, their weights and multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node

from leangan.generator import Generator
from leangan.graph.operators import aten, is_call, read_convolution
from leangan.graph.rewrite import codes_behind, layer_name, tensor_of
from leangan.runner import runner

_MATMULS: dict[Any, int] = {
    aten.mm: 0,
    aten.bmm: 0,
    aten.matmul: 0,
    aten.mv: 0,
    aten.addmm: 1,
    aten.baddbmm: 1,
}
"""Where the left factor stands among the arguments."""


@dataclass(frozen=True)
class Layer:
    """One operator that multiplies and accumulates."""

    name: str
    """The layer's name in the original module, or the node's where no stored weight is read."""
    node: str
    """The node's name in the graph; tells the uses of a shared layer apart."""
    op: str
    """The ATen operator: "conv2d", "conv_transpose1d", "linear", "matmul", ..."""
    weight: str | None
    """The path of the weight, None when it is computed from the input."""
    params: int
    """Elements of weight and bias."""
    macs: int
    """Multiply-accumulates over the whole batch; one is two floating-point operations."""
    shape: tuple[int, ...]
    """Of the output."""


def layers(generator: Generator, inputs: Sequence[Tensor] | None = None) -> list[Layer]:
    """All convolutions, linear layers and matrix products in the order in which they run.

    Only shapes are computed, so that the size of the network and of the input do not matter.

    Args:
        generator: float or quantized.
        inputs: say the sizes to count at; `generator.example()` when not given.
    """
    return _count(generator, inputs, None)


def macs(generator: Generator, sizes: Mapping[str, int] | None = None) -> int:
    """Multiply-accumulates of one run.

    Args:
        generator: float or quantized.
        sizes: per layout letter, as `Generator.example` takes them; the typical sizes where a
            letter is missing.
    """
    return sum(layer.macs for layer in _count(generator, None, sizes))


def _count(
    generator: Generator, inputs: Sequence[Tensor] | None, sizes: Mapping[str, int] | None
) -> list[Layer]:
    counter = _Counter(runner(generator.program))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        if inputs is None:
            counter.run(*generator.example(sizes))  # fake already, whatever their size
        else:
            counter.run(*(mode.from_tensor(x) for x in inputs))
    return counter.layers


class _Counter(Interpreter):
    """Runs the graph on fake tensors and notes what each operator costs."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.graph_module = module
        self.layers: list[Layer] = []

    def run_node(self, n: Node) -> Any:
        """Run one node as usual, then count it."""
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor):
            count = self._macs(n, result)
            if count is not None:
                self.layers.append(self._layer(n, result, count))
        return result

    def _macs(self, node: Node, result: Tensor) -> int | None:
        if conv := read_convolution(node):
            # Every position of the map that the kernel is laid on: the input's when transposed.
            laid = self.env[conv.x] if conv.transposed else result
            weight = self.env[conv.weight]
            return math.prod(laid.shape[2:]) * int(laid.shape[0]) * weight.numel()
        if is_call(node, aten.linear):
            return self._value(node, 0).numel() * int(result.shape[-1])
        if is_call(node, aten.scaled_dot_product_attention):
            query, key, value = (self._value(node, i) for i in range(3))
            return query.numel() * int(key.shape[-2]) + result.numel() * int(value.shape[-2])
        for packet, left in _MATMULS.items():
            # A product of stored tensors is computed once, when it is loaded.
            if is_call(node, packet) and any(n.op != "get_attr" for n in node.all_input_nodes):
                return result.numel() * int(self._value(node, left).shape[-1])
        return None

    def _value(self, node: Node, place: int) -> Any:
        source = node.args[place]
        assert isinstance(source, Node)
        return self.env[source]

    def _layer(self, node: Node, result: Tensor, count: int) -> Layer:
        stored = {}
        for source in map(codes_behind, node.all_input_nodes):
            tensor = tensor_of(self.graph_module, source)
            if tensor is not None:
                stored[str(source.target)] = tensor.numel()
        op = str(node.target).split(".")[1]
        return Layer(
            layer_name(node),
            node.name,
            op,
            next(iter(stored), None),
            sum(stored.values()),
            count,
            tuple(int(s) for s in result.shape),
        )
