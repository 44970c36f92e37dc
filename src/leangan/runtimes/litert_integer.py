"""A quantized generator in the form whose layers LiteRT runs on integer kernels.

Its kernels read 8 bits and also put out 8 bits, while leangan rounds only what layers read. Where
a layer's result is not rounded for the next layer anyhow, it must be rounded once more, and what
that costs is kept small: each output channel is shifted and scaled to fill all 255 steps, which
moves into the bias and into the scales of the weight, and is taken back afterwards in float. An
instance norm takes it back by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator, Step
from leangan.graph.operators import arguments, aten, is_call, only_user
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
from leangan.runtimes.litert_layers import Bounds, IntegerLayer, integer_layer, output_bounds
from leangan.techniques.layer_code import channel_shape

_q = torch.ops.quantized_decomposed
_CREST = 16.0
"""The largest ratio of the half of an output's range to its deviation, in the median over channels,
that 8 bits are put up with. CycleGAN's transposed convolutions lie at 19 and 26, its others below
10: in 8 bits those two alone take it from 38 to 32 dB."""
_LEAST = 1e-3
"""Smallest range of a channel, as a share of the widest."""
_STORED = 36
"""Bytes that the format holds per output of a linear layer: scales and zero points, in 64 bits, of
the weight and of the bias, the bias, and two factors."""
_MUCH = 0.05
"""The share of all weights above which that is too much, and one step for all outputs taken."""
_WEIGHT_DB = 30.0
"""The least that the weights' power must lie above the noise of that one step."""
_LIMITS: dict[Any, tuple[float, float]] = {
    aten.relu: (0.0, torch.inf),
    aten.tanh: (-4.0, 4.0),
    aten.sigmoid: (-8.0, 8.0),
}
"""Beyond this the operator that follows gives nothing else, or but a thousandth."""


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
    layers = [layer for node in module.graph.nodes if (layer := integer_layer(module, node))]
    bounds = output_bounds(generator, module, layers)
    whole = sum(layer.codes.numel() for layer in layers)
    left_float = []
    for layer in layers:
        factors = _take_factors(module, layer.node)
        reach = bounds[layer.node].times(factors).widest()
        alike = reach.crest <= _CREST and _has_many_outputs(layer, factors, whole)
        if _rounded_next(layer.node):
            _write_weight(module, layer, factors, alike=alike)
        elif alike:
            _round_alike(module, layer.node, float(reach.high))
            _write_weight(module, layer, factors, alike=True)
        elif bounds[layer.node].crest <= _CREST:
            divisors = _round_output(module, layer.node, bounds[layer.node].times(factors))
            _write_weight(module, layer, factors / divisors)
        else:
            _write_weight(module, layer, factors, rounded=False)
            left_float.append(layer_name(layer.node))
    replace_norms(module)
    _float_weights(module)
    _sign(module)
    tidy(module)
    return recapture(generator, module, Step("litert-integer", {"left in float": left_float}))


def _rounded_next(node: Node) -> bool:
    """Whether what a layer puts out, or what a ReLU makes of it, is all rounded at once."""
    user = only_user(node)
    if user is not None and is_call(user, aten.relu):
        user = only_user(user)
    return is_call(user, _q.quantize_per_tensor)


def _has_many_outputs(layer: IntegerLayer, factors: Tensor, whole: int) -> bool:
    """Whether one step for all outputs saves much of the file and costs the weights little.

    What projects a latent to a map has ten thousand outputs of a hundred weights each.

    Args:
        layer: any.
        factors: see `_take_factors`.
        whole: weights of all layers.
    """
    if not is_call(layer.node, aten.linear) or layer.axis != 0:
        return False
    outputs = layer.codes.shape[0]
    if _STORED * outputs < max(_MUCH * whole, layer.codes.numel() / 4):
        return False
    scales = layer.scales * factors
    power = (layer.codes.float().square().mean(1) * scales.square()).mean()
    return bool(power > 10 ** (_WEIGHT_DB / 10) * scales.max() ** 2 / 12)


def _round_alike(module: GraphModule, node: Node, reach: float) -> Node:
    """Round what a layer puts out over [-reach, reach], all channels alike; what reads then."""
    graph = module.graph
    numbers = (reach / 127, 0, -128, 127, torch.int8)
    with graph.inserting_after(node):
        code = graph.call_function(_q.quantize_per_tensor.default, (node, *numbers))
    with graph.inserting_after(code):
        back = graph.call_function(_q.dequantize_per_tensor.default, (code, *numbers))
    node.replace_all_uses_with(back, delete_user_cb=lambda reader: reader is not code)
    return back


def _take_factors(module: GraphModule, node: Node) -> Tensor:
    """Take the factors that bring the next layer's channels to like ranges off the graph.

    conv -> crop -> relu -> mul(factors) -> quantize
    becomes   conv * factors -> crop -> relu -> quantize

    Returns:
        Those factors, which belong into the layer's weight and are in its bias already; ones
        where there are none, shaped as one number per output channel.
    """
    shape = channel_shape(node, node.meta["val"])
    ones = torch.ones(node.meta["val"].shape[shape.index(-1)])
    user = only_user(node)
    while user and is_call(user, aten.slice) and arguments(user)["dim"] != shape.index(-1):
        user = only_user(user)
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


def _round_output(module: GraphModule, node: Node, bounds: Bounds) -> Tensor:
    """Shift and scale each channel of what a layer puts out, round it, and take that back.

    Returns:
        float32 [out channels]: what each channel is divided by before it is rounded.
    """
    user = only_user(node)
    limits = _LIMITS.get(getattr(getattr(user, "target", None), "overloadpacket", None))
    low, high = (b if limits is None else b.clamp(*limits) for b in (bounds.low, bounds.high))
    middle, half = (low + high) / 2, (high - low) / 2
    half = half.clamp(min=max(float(half.max()) * _LEAST, 1e-12))
    _set_bias(module, node, middle, half)
    back = _round_alike(module, node, 1.0)
    shape = channel_shape(node, node.meta["val"])
    if user is not None and is_own_norm(user):
        spell_norm(module, user, arguments(user)["eps"] / half.reshape(shape).square())
        return half
    readers, y = list(back.users), back
    for operator, vector in ((aten.mul.Tensor, half), (aten.add.Tensor, middle)):
        path = free_path(module, f"{node.name}_output")
        after = y.next
        constant = new_tensor_node(module, after, path, vector.reshape(shape), learned=False)
        with module.graph.inserting_before(after):
            y = module.graph.call_function(operator, (y, constant))
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


def _write_weight(
    module: GraphModule,
    layer: IntegerLayer,
    factors: Tensor,
    *,
    rounded: bool = True,
    alike: bool = False,
) -> None:
    """The float weight times factors per output channel, and its rounding in the graph.

    The converter makes codes of that again; it does not understand stored ones. With one step for
    all outputs `alike` they are others than before.
    """
    node, scales = layer.node, layer.scales * factors
    beside = [1] * layer.codes.dim()
    beside[layer.axis] = -1
    path = str(codes_behind(node.args[1]).target).removesuffix("_int8")
    made = layer.codes * scales.reshape(beside)
    weight = new_tensor_node(module, node, free_path(module, path), made)
    if alike:
        step = (float(scales.max()), 0, -127, 127, torch.int8)
        with module.graph.inserting_before(node):
            code = module.graph.call_function(_q.quantize_per_tensor.default, (weight, *step))
            weight = module.graph.call_function(_q.dequantize_per_tensor.default, (code, *step))
    elif rounded:
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        name = free_path(module, f"{path}_scale")
        scale = new_tensor_node(module, node, name, scales, learned=False)
        name = free_path(module, f"{path}_zero_point")
        zero = new_tensor_node(module, node, name, zeros, learned=False)
        numbers = (scale, zero, layer.axis, -127, 127, torch.int8)
        with module.graph.inserting_before(node):
            code = module.graph.call_function(_q.quantize_per_channel.default, (weight, *numbers))
            weight = module.graph.call_function(_q.dequantize_per_channel.default, (code, *numbers))
    node.update_arg(1, weight)


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
