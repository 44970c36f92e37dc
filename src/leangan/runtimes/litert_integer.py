"""A quantized generator in the form whose layers LiteRT runs on integer kernels.

Its kernels read 8 bits and also put out 8 bits, while leangan rounds only what layers read. Where
a layer's result is not rounded for the next layer anyhow, it must be rounded once more, and what
that costs is kept small: each output channel is shifted and scaled to fill all 255 steps, which
moves into the bias and into the scales of the weight, and is taken back afterwards in float. An
instance norm takes it back by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leangan.generator import Generator, Step
from leangan.graph.operators import arguments, aten, is_call, only_user, read_convolution
from leangan.graph.rewrite import (
    codes_behind,
    free_path,
    layer_name,
    new_tensor_node,
    recapture,
    tensor_of,
    tidy,
)
from leangan.graph.spelled_norms import is_own_norm, replace_norms, spell_norm
from leangan.techniques.layer_code import channel_shape, widened

_q = torch.ops.quantized_decomposed
_MARGIN = 1.05
"""How much wider than what was seen in calibration an output's range is taken."""
_MARGIN_UNSEEN = 1.3
"""The same where nothing is known of calibration, and random inputs tell the range."""
_EXAMPLES = 4
_LEAST = 1e-3
"""Smallest range of a channel, as a share of the widest."""
_SATURATED: dict[Any, float] = {aten.tanh: 4.0, aten.sigmoid: 8.0}
"""Beyond this these stay within a third of a thousandth of their limits."""


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


def complete(generator: Generator) -> Generator:
    """Round the outputs of 8-bit layers as well, and write codes as LiteRT's converter reads them.

    Args:
        generator: quantized, of one size. Layers in 16 bits, or with weights of other forms, come
            back as float layers.

    Returns:
        One whose outputs differ by the second rounding.
    """
    module = generator.module()
    _drop_16_bits(module)
    layers = [layer for node in module.graph.nodes if (layer := _integer(module, node))]
    reach, margin = _reach(generator, module, layers)
    for layer in layers:
        taken = _take_factors(module, layer.node)
        low, high = reach[layer.node]
        divisors = _free_output(module, layer, (low * taken, high * taken), margin)
        _write_weight(module, layer, divisors / taken)
    replace_norms(module)
    _float_weights(module)
    _sign(module)
    tidy(module)
    return recapture(generator, module, Step("litert-integer", {"layers": len(layers)}))


def _integer(module: GraphModule, node: Node) -> IntegerLayer | None:
    conv = read_convolution(node)
    if conv is None and not is_call(node, aten.linear):
        return None
    if not _reads_codes(node):
        return None
    transposed = conv is not None and conv.transposed
    if conv is not None and transposed and conv.groups > 1:
        return None
    weight = arguments(node)["weight"]
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


def _reads_codes(node: Node) -> bool:
    """Whether what a layer reads was rounded, and only moved since."""
    source: Any = node.args[0]
    while isinstance(source, Node) and source.op == "call_function" and source.args:
        if "dequantize" in str(source.target):
            return True
        source = source.args[0]
    return False


def _reach(
    generator: Generator, module: GraphModule, layers: list[IntegerLayer]
) -> tuple[dict[Node, tuple[Tensor, Tensor]], float]:
    """How far each channel of each layer's output goes, and the margin to leave beyond that."""
    known: dict[str, list[list[float]]] = {}
    for step in generator.history:
        known |= step.measured.get("reach", {})
    found = {}
    for layer in layers:
        bounds = known.get(layer_name(layer.node))
        if bounds is None or len(bounds[0]) != len(layer.scales):
            return _observed(generator, module, layers), _MARGIN_UNSEEN
        found[layer.node] = (torch.tensor(bounds[0]), torch.tensor(bounds[1]))
    return found, _MARGIN


def _observed(
    generator: Generator, module: GraphModule, layers: list[IntegerLayer]
) -> dict[Node, tuple[Tensor, Tensor]]:
    watched = {layer.node for layer in layers}
    found: dict[Node, tuple[Tensor, Tensor]] = {}

    class Watch(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if n in watched:
                found[n] = widened(found.get(n), value, n)
            return value

    with torch.no_grad():
        for seed in range(_EXAMPLES):
            Watch(module).run(*generator.example(seed=seed))
    return found


def _take_factors(module: GraphModule, node: Node) -> Tensor:
    """Take the factors that bring the next layer's channels to like ranges off the graph.

    conv -> relu -> mul(factors) -> quantize   becomes   conv * factors -> relu -> quantize

    Returns:
        Those factors, which belong into the layer's weight and are in its bias already; ones
        where there are none, shaped as one number per output channel.
    """
    shape = channel_shape(node, node.meta["val"])
    ones = torch.ones(node.meta["val"].shape[shape.index(-1)])
    user = only_user(node)
    if user is not None and is_call(user, aten.relu, aten.leaky_relu, aten.prelu):
        user = only_user(user)
    if user is None or not is_call(user, aten.mul):
        return ones
    factors = tensor_of(module, user.args[1])
    if factors is None or list(factors.shape) != list(ones.reshape(shape).shape):
        return ones
    vector = factors.detach().flatten()
    if not is_call(only_user(user), _q.quantize_per_tensor) or not bool((vector > 0).all()):
        return ones
    if tensor_of(module, arguments(node)["bias"]) is not None:
        _set_bias(module, node, torch.zeros_like(vector), 1 / vector)
    user.replace_all_uses_with(user.all_input_nodes[0])
    module.graph.erase_node(user)
    return vector


def _free_output(
    module: GraphModule, layer: IntegerLayer, bounds: tuple[Tensor, Tensor], margin: float
) -> Tensor:
    """Round what a layer puts out, unless the next one does so.

    Returns:
        float32 [out channels]: what each output channel is divided by from now on.
    """
    node, graph = layer.node, module.graph
    user = only_user(node)
    rounding = only_user(user) if is_call(user, aten.relu) and user is not None else user
    low, high = bounds
    if is_call(rounding, _q.quantize_per_tensor):
        return torch.ones_like(low)
    packet = getattr(getattr(user, "target", None), "overloadpacket", None)
    limit = _SATURATED.get(packet)
    if limit is not None:
        low, high = low.clamp(-limit, limit), high.clamp(-limit, limit)
    middle, half = (low + high) / 2, (high - low) / 2 * margin
    half = half.clamp(min=max(float(half.max()) * _LEAST, 1e-12))
    _set_bias(module, node, middle, half)
    numbers = (1 / 127, 0, -128, 127, torch.int8)
    with graph.inserting_after(node):
        code = graph.call_function(_q.quantize_per_tensor.default, (node, *numbers))
    with graph.inserting_after(code):
        back = graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
    node.replace_all_uses_with(back, delete_user_cb=lambda reader: reader is not code)
    shape = channel_shape(node, node.meta["val"])
    if user is not None and is_own_norm(user):
        spell_norm(module, user, arguments(user)["eps"] / half.reshape(shape).square())
        return half
    readers, y = list(back.users), back
    for operator, vector in ((aten.mul.Tensor, half), (aten.add.Tensor, middle)):
        path = free_path(module, f"{node.name}_output")
        after = y.next
        constant = new_tensor_node(module, after, path, vector.reshape(shape), learned=False)
        with graph.inserting_before(after):
            y = graph.call_function(operator, (y, constant))
    for reader in readers:
        reader.replace_input_with(back, y)
    return half


def _set_bias(module: GraphModule, node: Node, middle: Tensor, half: Tensor) -> None:
    stored = arguments(node)["bias"]
    bias = tensor_of(module, stored)
    old = torch.zeros_like(middle) if bias is None else bias.detach()
    path = free_path(module, f"{node.name}_bias" if stored is None else str(stored.target))
    new = new_tensor_node(module, node, path, (old - middle) / half)
    if len(node.args) > 2:
        node.update_arg(2, new)
    else:
        node.args = (*node.args, new)


def _write_weight(module: GraphModule, layer: IntegerLayer, divisors: Tensor) -> None:
    """The float weight, and its rounding in the graph: a form that the converter understands."""
    node = layer.node
    scales = layer.scales / divisors
    beside = [1] * layer.codes.dim()
    beside[layer.axis] = -1
    path = str(codes_behind(node.args[1]).target).removesuffix("_int8")
    made = layer.codes * scales.reshape(beside)
    weight = new_tensor_node(module, node, free_path(module, path), made)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    name = free_path(module, f"{path}_scale")
    scale = new_tensor_node(module, node, name, scales, learned=False)
    name = free_path(module, f"{path}_zero_point")
    zero = new_tensor_node(module, node, name, zeros, learned=False)
    numbers = (scale, zero, layer.axis, -127, 127, torch.int8)
    with module.graph.inserting_before(node):
        code = module.graph.call_function(_q.quantize_per_channel.default, (weight, *numbers))
        back = module.graph.call_function(_q.dequantize_per_channel.default, (code, *numbers))
    node.update_arg(1, back)


def _float_weights(module: GraphModule) -> None:
    """Weights that are still read as codes, by layers that run in float, as float weights."""
    for node in list(module.graph.nodes):
        if not is_call(node, _q.dequantize_per_channel, _q.dequantize_per_tensor):
            continue
        codes = tensor_of(module, node.args[0])
        if codes is None:
            continue
        tensors = [tensor_of(module, a) for a in node.args]
        args = [a if t is None else t for a, t in zip(node.args, tensors, strict=True)]
        path = str(node.all_input_nodes[0].target).removesuffix("_int8")
        target: Any = node.target
        weight = new_tensor_node(module, node, free_path(module, path), target(*args))
        node.replace_all_uses_with(weight)


def _drop_16_bits(module: GraphModule) -> None:
    """Values in 16 bits stay float: the kernels know no zero point there."""
    for node in list(module.graph.nodes):
        if is_call(node, _q.dequantize_per_tensor) and node.args[5] is torch.uint16:
            (code,) = node.all_input_nodes
            node.replace_all_uses_with(code.all_input_nodes[0])


def _sign(module: GraphModule) -> None:
    """Unsigned codes as signed ones: the same numbers, 128 lower."""
    for node in module.graph.nodes:
        if is_call(node, _q.quantize_per_tensor, _q.dequantize_per_tensor):
            value, scale, zero, low, high, kind = node.args
            if kind is torch.uint8:
                node.args = (value, scale, zero - 128, low - 128, high - 128, torch.int8)
