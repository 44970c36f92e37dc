"""A generator as a network of fixed-point operations: widths from what its values are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torchao.quantization.pt2e  # noqa: F401  registers torch.ops.quantized_decomposed
from torch import Tensor
from torch.fx import Node

from leangan.errors import LeanganError
from leangan.generator import Generator, Port
from leangan.graph.observe import observe
from leangan.graph.operators import POINTWISE, arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import layer_name, tensor_of
from leangan.runtimes.fixed_point import (
    Cast,
    Format,
    Framed,
    Input,
    Operation,
    Rectified,
    Repeated,
    Reshaped,
    Scaled,
    Stored,
    Sum,
    Table,
    Transposed,
    Weighted,
    covering,
    holding,
)
from leangan.runtimes.fixed_tidy import fold_orders, needed
from leangan.techniques.read_quantized import EvenSteps, forms

_q = torch.ops.quantized_decomposed
_BITS = 16
"""Of weights and results that no plan gave fewer."""
_SCALE_BITS = 18
"""Of the factors that 8-bit weights are scaled by; what one input of a multiplier block takes."""
_TABLE_BITS = 10
"""Address bits of a table of a function. As fine as the levels of an 8-bit picture."""
_SAMPLES = 32
_KEPT = 4096
_ROUNDING = (Input, Weighted, Scaled, Rectified, Sum)
"""Operations that can as well put out another format."""


def read_fixed(generator: Generator) -> list[Operation]:
    """The network that computes what `generator`, of one size, does.

    A float layer gets 16-bit weights. A layer with 8-bit (or fewer) weights keeps their codes:
    sums of codes are multiplied with the scale of each channel, in 18 bits. Where a plan quantizes
    what enters a layer, the step is rounded down to a power of two, and there are as many bits as
    the plan's range then needs. Other results have 16 bits, for twice the range that is seen on
    random inputs, and clip beyond it. A function other than ReLU becomes a table of 1024 entries.

    Returns:
        Operations in the order of computation, the first one the input.

    Raises:
        LeanganError: names the first layer that cannot be had, and why.
    """
    reader = _Reader(generator)
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


def _samples(generator: Generator) -> list[tuple[Tensor, ...]]:
    """Random inputs; pictures also coarser and flat, which move layers more than noise does."""
    found = []
    for seed in range(_SAMPLES):
        inputs = []
        for port, x in zip(generator.signature.inputs, generator.example(seed=seed), strict=True):
            step = 2 ** (seed % 8)
            if port.layout == "NCHW" and port.range is not None:
                small = x[..., ::step, ::step]
                x = small.repeat_interleave(step, 2).repeat_interleave(step, 3)[
                    ..., : x.shape[2], : x.shape[3]
                ]
            inputs.append(x)
        found.append(tuple(inputs))
    return found


@dataclass(frozen=True)
class _Ways:
    """How one layer is computed: its numbers, [out, in, ...], and the scale of each output."""

    weight: Stored
    scales: np.ndarray | None


class _Reader:
    """Walks the graph once and adds operations; `done` tells which stands for a node."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.module = generator.module()
        self.forms = forms(generator, self.module)
        self.operations: dict[str, Operation] = {}
        self.done: dict[Node, str] = {}
        graph = self.module.graph
        named = [n for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)]
        self.seen = {node.name: _Seen() for node in named if node.op != "get_attr"}
        watched = {name: [seen] for name, seen in self.seen.items()}
        observe(self.module, _samples(generator), watched)
        ports = (*generator.signature.inputs, *generator.signature.outputs)
        if len(ports) != 2 or any(p.layout not in ("NC", "NCHW") for p in ports):
            raise LeanganError(
                f"{generator.name} takes and gives {', '.join(_words(p) for p in ports)}; the FPGA "
                "design has one input and one output, each a vector (NC) or a picture (NCHW)."
            )
        (entry,) = (n for n in graph.nodes if n.op == "placeholder")
        self.add(entry, Input(entry.name, (), _last(_shape(entry)), self.result(entry)))

    def network(self) -> list[Operation]:
        (output,) = self.module.graph.find_nodes(op="output")
        result = output.all_input_nodes[0]
        if result not in self.done:
            raise LeanganError(f"The output of {self.generator.name} does not depend on its input.")
        return needed(fold_orders(self.operations), self.done[result])

    def add(self, node: Node, operation: Operation) -> None:
        self.operations[operation.name] = operation
        self.done[node] = operation.name

    def source(self, node: Node) -> tuple[Node, Operation]:
        """The one argument of an operator that is computed, and what computes it."""
        found = [n for n in node.all_input_nodes if n in self.done]
        if len(found) != 1:
            raise self.refused(node, "it joins several values")
        return found[0], self.operations[self.done[found[0]]]

    def result(self, node: Node) -> Format:
        seen = self.seen[node.name]
        return covering(2 * seen.low, 2 * seen.high, _BITS)

    def refused(self, node: Node, why: str) -> LeanganError:
        kind = str(node.target).removeprefix("aten.").split(".")[0]
        return LeanganError(
            f"hls4ml cannot have {kind} at {layer_name(node)!r} of {self.generator.name}: {why}."
        )

    def read(self, node: Node) -> None:
        packet = getattr(node.target, "overloadpacket", None)
        reader = _READERS.get(packet)
        if reader is not None:
            reader(self, node)
        elif packet in POINTWISE and sum(n in self.done for n in node.all_input_nodes) == 1:
            _read_function(self, node)
        else:
            raise self.refused(node, "there is no such layer in it")

    def put_out(self, node: Node, form: Format, name: str) -> str:
        """Have the value of `node` in a format; returns the operation that puts it out."""
        made = self.operations[self.done[node]]
        if made.format == form:
            return made.name
        alike = [n for n, name in self.done.items() if name == made.name]
        if isinstance(made, _ROUNDING) and all(len(n.users) == 1 for n in alike):
            self.operations[made.name] = replace(made, format=form)
            return made.name
        cast = Cast(f"{name}_cast", (made.name,), made.shape, form)
        self.operations[cast.name] = cast
        return cast.name

    def constant(self, node: Node, argument: Any) -> np.ndarray:
        """A number, or one per channel, that an operator takes beside what is computed."""
        tensor = tensor_of(self.module, argument)
        if isinstance(argument, int | float):
            tensor = torch.tensor(float(argument))
        if tensor is None:
            raise self.refused(node, "it takes more than one computed value or a constant")
        channels, rank = _shape(node)[0], len(_shape(node))
        if tensor.numel() > 1 and [*tensor.shape][-rank:] != [channels, *[1] * (rank - 1)]:
            raise self.refused(node, "its constant is not one number, or one per channel")
        return np.broadcast_to(tensor.detach().double().flatten().numpy(), channels)


def _words(port: Port) -> str:
    return f"{port.name} ({port.layout})"


def _shape(node: Node) -> tuple[int, ...]:
    """Of a value, without the batch."""
    return tuple(int(n) for n in node.meta["val"].shape[1:])


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels last."""
    return (*shape[1:], shape[0])


def _read_weighted(reader: _Reader, node: Node) -> None:
    """A linear layer or a convolution; the scales of 8-bit weights in an operation of their own."""
    _, x = reader.source(node)
    conv = read_convolution(node)
    stride, padding = (1, 1), (0, 0)
    if conv is not None:
        if conv.transposed:
            raise reader.refused(
                node,
                "it has no transposed convolution, and this one could not be turned into a plain "
                "one; choose stride 2, groups 1 and a float layer, or quantize it after the "
                "rewrite transposed-as-shuffle",
            )
        if conv.axes != 2 or conv.groups != 1 or set(conv.dilation) != {1} or conv.padding is None:
            raise reader.refused(node, "only 2-D, groups 1, dilation 1 and even padding are known")
        (a, b), (c, d) = conv.stride, conv.padding
        stride, padding = (a, b), (c, d)
    elif len(x.shape) != 1:
        raise reader.refused(node, "a linear layer takes a vector")
    ways = _numbers(reader, node)
    order = (2, 3, 1, 0) if conv is not None else (1, 0)
    weight = Stored(ways.weight.codes.transpose(order), ways.weight.format)
    outputs = weight.codes.shape[-1]
    bias_node = arguments(node)["bias"]
    stored = tensor_of(reader.module, bias_node)
    if bias_node is not None and stored is None:
        raise reader.refused(node, "its bias is computed")
    bias = np.zeros(outputs) if stored is None else stored.detach().double().numpy()
    fraction = x.format.fraction + weight.format.fraction
    inside = np.zeros(outputs) if ways.scales is not None else bias
    whole = Stored.exactly(_codes(inside, fraction), fraction)
    most = max(x.format.high, -x.format.low)
    sums = np.abs(weight.codes).reshape(-1, outputs).sum(0) * most + np.abs(whole.codes)
    accumulator = holding(-int(sums.max()), int(sums.max()), fraction)
    form = accumulator if ways.scales is not None else reader.result(node)
    shape = _last(_shape(node))
    reader.add(
        node,
        Weighted(node.name, (x.name,), shape, form, weight, whole, accumulator, stride, padding),
    )
    if ways.scales is not None:
        _scale(reader, node, f"{node.name}_scale", node.name, ways.scales, bias)


def _numbers(reader: _Reader, node: Node) -> _Ways:
    found = reader.forms.get(node.name)
    if isinstance(found, EvenSteps) and found.per != "group":
        codes = (found.codes - found.zero_points).numpy().astype(np.int64)
        scales = found.scales.reshape(len(codes), -1)[:, 0].double().numpy()
        return _Ways(Stored.exactly(codes, 0), scales)
    tensor = found.made if found else tensor_of(reader.module, arguments(node)["weight"])
    if tensor is None:
        raise reader.refused(node, "its weight is computed")
    return _Ways(Stored.of(tensor.detach().double().numpy(), _BITS), None)


def _codes(values: np.ndarray, fraction: int) -> np.ndarray:
    return np.rint(np.ldexp(values, fraction)).astype(np.int64)


def _scale(
    reader: _Reader, node: Node, name: str, source: str, scale: np.ndarray, bias: np.ndarray
) -> None:
    x = reader.operations[source]
    factors = Stored.of(np.ascontiguousarray(scale), _SCALE_BITS)
    fraction = x.format.fraction + factors.format.fraction
    shift = Stored.exactly(_codes(bias, fraction), fraction)
    reader.add(node, Scaled(name, (source,), x.shape, reader.result(node), factors, shift))


def _read_constant(reader: _Reader, node: Node) -> None:
    """A product, quotient, sum or difference with a constant; or the sum of two values."""
    named = list(arguments(node).values())
    a, b = named[:2]
    if arguments(node).get("alpha", 1) != 1:
        raise reader.refused(node, "its alpha is not 1")
    if is_call(node, aten.add) and all(isinstance(n, Node) and n in reader.done for n in (a, b)):
        x, y = (reader.operations[reader.done[n]] for n in (a, b))
        if x.shape != y.shape:
            raise reader.refused(node, "it adds values of different shapes")
        reader.add(node, Sum(node.name, (x.name, y.name), x.shape, reader.result(node)))
        return
    if a not in reader.done:
        if is_call(node, aten.sub, aten.div):
            raise reader.refused(node, "its first argument is a constant")
        a, b = b, a
    constant = reader.constant(node, b)
    scale, bias = np.ones_like(constant), np.zeros_like(constant)
    if is_call(node, aten.mul):
        scale = constant
    elif is_call(node, aten.div):
        scale = 1 / constant
    else:
        bias = -constant if is_call(node, aten.sub) else constant
    _scale(reader, node, node.name, reader.done[a], scale, bias)


def _read_relu(reader: _Reader, node: Node) -> None:
    """ReLU, LeakyReLU, and PReLU of one slope."""
    _, x = reader.source(node)
    slope: float | None = None
    if is_call(node, aten.leaky_relu):
        slope = arguments(node)["negative_slope"]
    elif is_call(node, aten.prelu):
        weight = tensor_of(reader.module, arguments(node)["weight"])
        if weight is None or weight.numel() != 1:
            raise reader.refused(node, "a slope per channel is not known")
        slope = float(weight.detach())
    stored = None if slope is None else Stored.of(np.array(slope), _BITS)
    reader.add(node, Rectified(node.name, (x.name,), x.shape, reader.result(node), stored))


def _read_function(reader: _Reader, node: Node) -> None:
    """Any other function of one number, as a table; its input's step is what it errs least with."""
    before, x = reader.source(node)
    position = next(i for i, a in enumerate(node.args) if a is before)

    def function(values: np.ndarray) -> np.ndarray:
        given = list(node.args)
        given[position] = torch.from_numpy(values)
        with torch.no_grad():
            return node.target(*given, **node.kwargs).numpy()  # type: ignore[operator]

    if any(isinstance(a, Node) and a is not before for a in node.args):
        raise reader.refused(node, "it takes more than one computed value or a constant")
    seen = reader.seen[before.name]
    values = torch.cat(seen.some).double().numpy()
    widest = covering(2 * seen.low, 2 * seen.high, _TABLE_BITS)
    choices = [replace(widest, fraction=widest.fraction + more) for more in range(8)]
    right = function(values)

    def error(form: Format) -> float:
        return float(((function(form.values(form.codes(values))) - right) ** 2).mean())

    form = min(choices, key=error)
    addresses = np.arange(1 << form.bits)
    if form.signed:
        addresses = np.where(addresses > form.high, addresses - (1 << form.bits), addresses)
    stored = Stored.of(function(form.values(addresses)), _BITS)
    source = reader.put_out(before, form, node.name)
    reader.add(node, Table(node.name, (source,), x.shape, stored.format, stored))


def _read_quantize(reader: _Reader, node: Node) -> None:
    """The plan's format of what enters a layer, its step rounded down to a power of two."""
    before, _ = reader.source(node)
    named = arguments(node)
    step, zero = named["scale"], named["zero_point"]
    fraction = -math.floor(math.log2(step))
    low, high = ((named[end] - zero) * step for end in ("quant_min", "quant_max"))
    form = holding(round(math.ldexp(low, fraction)), round(math.ldexp(high, fraction)), fraction)
    reader.done[node] = reader.put_out(before, form, node.name)


def _read_nothing(reader: _Reader, node: Node) -> None:
    """What changes no number."""
    before, _ = reader.source(node)
    reader.done[node] = reader.done[before]


def _read_view(reader: _Reader, node: Node) -> None:
    """Another shape: maps are read channel by channel, as PyTorch lays them out."""
    before, x = reader.source(node)
    old, new = _shape(before), _shape(node)
    if len(new) not in (1, 3):
        raise reader.refused(node, f"it gives {len(new)} axes, and only vectors and maps are known")
    if _last(old) == _last(new):
        reader.done[node] = x.name
        return
    if len(old) == 3 and old[0] > 1 and old[1] * old[2] > 1:
        x = _move(reader, x, f"{node.name}_channels_first", old, (2, 0, 1))
    if len(new) == 3 and new[0] > 1 and new[1] * new[2] > 1:
        x = _move(reader, x, f"{node.name}_map", new, None)
        x = _move(reader, x, node.name, _last(new), (1, 2, 0))
    else:
        x = _move(reader, x, node.name, _last(new), None)
    reader.done[node] = x.name


def _move(
    reader: _Reader,
    x: Operation,
    name: str,
    shape: tuple[int, ...],
    order: tuple[int, ...] | None,
) -> Operation:
    moved: Operation = (
        Reshaped(name, (x.name,), shape, x.format)
        if order is None
        else Transposed(name, (x.name,), shape, x.format, order)
    )
    reader.operations[name] = moved
    return moved


def _read_shuffle(reader: _Reader, node: Node) -> None:
    """Depth to space: channel c * r * r + a * r + b is row a and column b of a block."""
    _, x = reader.source(node)
    r = arguments(node)["upscale_factor"]
    height, width, channels = x.shape
    split = (height, width, channels // (r * r), r, r)
    order = (0, 3, 1, 4, 2)
    x = _move(reader, x, f"{node.name}_split", split, None)
    x = _move(reader, x, f"{node.name}_blocks", tuple(split[i] for i in order), order)
    reader.done[node] = _move(reader, x, node.name, _last(_shape(node)), None).name


def _read_upsample(reader: _Reader, node: Node) -> None:
    _, x = reader.source(node)
    shape = _last(_shape(node))
    if any(new % old for new, old in zip(shape, x.shape, strict=True)):
        raise reader.refused(node, "only whole factors are known")
    factors = (shape[0] // x.shape[0], shape[1] // x.shape[1])
    reader.add(node, Repeated(node.name, (x.name,), shape, x.format, factors))


def _read_frame(reader: _Reader, node: Node) -> None:
    """Zero padding, and a slice of rows or columns."""
    _, x = reader.source(node)
    named = arguments(node)
    if is_call(node, aten.pad):
        sides = [*named["pad"], 0, 0][:4]
        if (
            named["mode"] != "constant"
            or named["value"]
            or len(x.shape) != 3
            or any(named["pad"][4:])
        ):
            raise reader.refused(node, "only zeros around rows and columns are known")
        left, right, top, bottom = sides
    else:
        axis, size = named["dim"], x.shape[named["dim"] - 2] if named["dim"] > 1 else 0
        start, end = named["start"] or 0, named["end"]
        if axis not in (2, 3) or named["step"] != 1:
            raise reader.refused(node, "only slices of rows or columns are known")
        start, stop, _ = slice(start, end).indices(size)
        top, bottom, left, right = (
            (-start, stop - size, 0, 0) if axis == 2 else (0, 0, -start, stop - size)
        )
    if min(top, bottom, left, right) < 0 < max(top, bottom, left, right):
        raise reader.refused(node, "it pads and crops at once")
    shape = _last(_shape(node))
    reader.add(node, Framed(node.name, (x.name,), shape, x.format, (top, bottom, left, right)))


_READERS: dict[Any, Callable[[_Reader, Node], None]] = {
    aten.linear: _read_weighted,
    aten.conv1d: _read_weighted,
    aten.conv2d: _read_weighted,
    aten.conv_transpose1d: _read_weighted,
    aten.conv_transpose2d: _read_weighted,
    aten.add: _read_constant,
    aten.sub: _read_constant,
    aten.mul: _read_constant,
    aten.div: _read_constant,
    aten.relu: _read_relu,
    aten.leaky_relu: _read_relu,
    aten.prelu: _read_relu,
    aten.view: _read_view,
    aten.reshape: _read_view,
    aten.flatten: _read_view,
    aten.unsqueeze: _read_view,
    aten.squeeze: _read_view,
    aten.pixel_shuffle: _read_shuffle,
    aten.upsample_nearest2d: _read_upsample,
    aten.pad: _read_frame,
    aten.slice: _read_frame,
    aten.clone: _read_nothing,
    _q.quantize_per_tensor: _read_quantize,
    _q.dequantize_per_tensor: _read_nothing,
}
