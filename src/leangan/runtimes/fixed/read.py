"""A generator as a network of fixed-point operations: widths from what its values are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch import Tensor
from torch.fx import Node

from leangan.errors import LeanganError
from leangan.generator import Generator, Port
from leangan.graph.observe import observe
from leangan.graph.operators import POINTWISE, aten
from leangan.graph.phases import latent_as_linear
from leangan.graph.rewrite import layer_name
from leangan.graph.transposed import transposed_as_shuffle
from leangan.runtimes.fixed import layers, moves
from leangan.runtimes.fixed.moves import last, shape_of
from leangan.runtimes.fixed.network import (
    Cast,
    Format,
    Input,
    Operation,
    Rectified,
    Scaled,
    Sum,
    Weighted,
    covering,
)
from leangan.runtimes.fixed.tidy import fold_orders, needed
from leangan.techniques.read_quantized import forms

_q = torch.ops.quantized_decomposed
_SAMPLES = 32
_KEPT = 4096
"""Values of a node that are looked at to choose the addresses of a table."""
_ROUNDING = (Input, Weighted, Scaled, Rectified, Sum)
"""Operations that can as well put out another format."""


def read_fixed(generator: Generator) -> list[Operation]:
    """The network that computes what `generator`, of one size, does.

    A float layer gets 16-bit weights. A layer with weights of 8 bits or fewer keeps their codes:
    sums of codes are multiplied with the scale of each channel, in 18 bits. Where a plan quantizes
    what enters a layer, the step is rounded down to a power of two, and there are as many bits as
    the plan's range then needs. Other results have 16 bits, for twice the range that is seen on
    random inputs, and clip beyond it. A function other than ReLU becomes a table of 1024 entries.
    Transposed convolutions with float weights become plain ones and a shuffle, or a linear layer
    where they start from one pixel.

    Returns:
        Operations in the order of computation, the first one the input.

    Raises:
        LeanganError: names the first layer that cannot be had, and why.
    """
    reader = Reader(transposed_as_shuffle(latent_as_linear(generator)))
    for node in reader.module.graph.nodes:
        if node.op == "call_function" and any(n in reader.done for n in node.all_input_nodes):
            reader.read(node)
    return reader.network()


class _Seen:
    """The range of a node's values, and some of them."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.some: list[Tensor] = []

    def see(self, value: Tensor) -> None:
        self.low = min(self.low, float(value.min()))
        self.high = max(self.high, float(value.max()))
        self.some.append(value.flatten()[:: max(1, value.numel() * _SAMPLES // _KEPT)].clone())


class Reader:
    """Walks the graph once and adds operations; `done` tells which one stands for a node."""

    def __init__(self, generator: Generator) -> None:
        ports = (*generator.signature.inputs, *generator.signature.outputs)
        if len(ports) != 2 or any(p.layout not in ("NC", "NCHW") for p in ports):
            raise LeanganError(
                f"{generator.name} takes and gives {', '.join(map(_words, ports))}; a design for "
                "an FPGA has one input and one output, each a vector (NC) or a picture (NCHW)."
            )
        self.generator = generator
        self.module = generator.module()
        self.forms = forms(generator, self.module)
        self.operations: dict[str, Operation] = {}
        self.done: dict[Node, str] = {}
        nodes = self.module.graph.nodes
        tensors = [n for n in nodes if isinstance(n.meta.get("val"), Tensor)]
        self.seen = {n.name: _Seen() for n in tensors if n.op != "get_attr"}
        watched = {name: [seen] for name, seen in self.seen.items()}
        observe(self.module, _samples(generator), watched)
        (entry,) = (n for n in nodes if n.op == "placeholder")
        self.add(entry, Input(entry.name, (), last(shape_of(entry)), self.result(entry)))

    def network(self) -> list[Operation]:
        """What was read, without what the output does not need."""
        (output,) = self.module.graph.find_nodes(op="output")
        result = output.all_input_nodes[0]
        if result not in self.done:
            raise LeanganError(f"The output of {self.generator.name} does not depend on its input.")
        return needed(fold_orders(self.operations), self.done[result])

    def read(self, node: Node) -> None:
        """Add the operations that one node stands for."""
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _READERS:
            _READERS[packet](self, node)
        elif packet in POINTWISE and sum(n in self.done for n in node.all_input_nodes) == 1:
            layers.read_function(self, node)
        else:
            raise self.refused(node, "there is no such layer in it")

    def add(self, node: Node, operation: Operation) -> Operation:
        """Have an operation stand for a node."""
        self.operations[operation.name] = operation
        self.done[node] = operation.name
        return operation

    def source(self, node: Node) -> tuple[Node, Operation]:
        """The one argument of an operator that is computed, and what computes it."""
        found = [n for n in node.all_input_nodes if n in self.done]
        if len(found) != 1:
            raise self.refused(node, "it joins several values")
        return found[0], self.operations[self.done[found[0]]]

    def result(self, node: Node) -> Format:
        """Of what a node puts out, where no plan says."""
        seen = self.seen[node.name]
        return covering(2 * seen.low, 2 * seen.high, layers.BITS)

    def put_out(self, node: Node, form: Format, name: str) -> str:
        """Have the value of `node` in a format; returns the operation that puts it out."""
        made = self.operations[self.done[node]]
        if made.format == form:
            return made.name
        alike = [n for n, operation in self.done.items() if operation == made.name]
        if isinstance(made, _ROUNDING) and all(len(n.users) == 1 for n in alike):
            self.operations[made.name] = replace(made, format=form)
            return made.name
        cast = Cast(f"{name}_cast", (made.name,), made.shape, form)
        self.operations[cast.name] = cast
        return cast.name

    def refused(self, node: Node, why: str) -> LeanganError:
        """The error that names a node that cannot be had."""
        kind = str(node.target).removeprefix("aten.").split(".")[0]
        return LeanganError(
            f"hls4ml cannot have {kind} at {layer_name(node)!r} of {self.generator.name}: {why}."
        )


def _samples(generator: Generator) -> list[tuple[Tensor, ...]]:
    """Random inputs; pictures also of larger and larger patches, which move layers more."""
    found: list[tuple[Tensor, ...]] = []
    for seed in range(_SAMPLES):
        (x,) = generator.example(seed=seed)
        if x.dim() == 4 and generator.signature.inputs[0].range is not None:
            size = 2 ** (seed % 8)
            patches = x[..., ::size, ::size]
            repeated = patches.repeat_interleave(size, 2).repeat_interleave(size, 3)
            x = repeated[..., : x.shape[2], : x.shape[3]]
        found.append((x,))
    return found


def _words(port: Port) -> str:
    return f"{port.name} ({port.layout})"


_READERS: dict[Any, Callable[[Reader, Node], object]] = {
    aten.linear: layers.read_weighted,
    aten.conv1d: layers.read_weighted,
    aten.conv2d: layers.read_weighted,
    aten.conv_transpose1d: layers.read_weighted,
    aten.conv_transpose2d: layers.read_weighted,
    aten.add: layers.read_arithmetic,
    aten.sub: layers.read_arithmetic,
    aten.mul: layers.read_arithmetic,
    aten.div: layers.read_arithmetic,
    aten.relu: layers.read_relu,
    aten.leaky_relu: layers.read_relu,
    aten.prelu: layers.read_relu,
    _q.quantize_per_tensor: layers.read_quantize,
    _q.dequantize_per_tensor: moves.read_nothing,
    aten.clone: moves.read_nothing,
    aten.view: moves.read_view,
    aten.reshape: moves.read_view,
    aten.flatten: moves.read_view,
    aten.unsqueeze: moves.read_view,
    aten.squeeze: moves.read_view,
    aten.pixel_shuffle: moves.read_shuffle,
    aten.upsample_nearest2d: moves.read_upsample,
    aten.pad: moves.read_frame,
    aten.slice: moves.read_frame,
}
