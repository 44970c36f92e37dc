"""Norms with fixed statistics, folded into the layer beside them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.operators import arguments, aten, is_call, only_user, read_convolution
from leangan.graph.rewrite import (
    free_path,
    layer_name,
    new_tensor_node,
    replace_tensor,
    tensor_of,
)


@dataclass(frozen=True)
class _Norm:
    """A norm with fixed statistics: y = x * scale + shift per channel (axis 1)."""

    x: Node
    y: Node
    scale: Tensor
    shift: Tensor


def _norms(module: GraphModule) -> Iterator[_Norm]:
    for node in list(module.graph.nodes):
        if is_call(node, aten._native_batch_norm_legit_no_training):
            output = only_user(node)
            if output is None or output.target is not operator.getitem or output.args[1] != 0:
                continue
        elif is_call(node, aten.instance_norm) and not arguments(node)["use_input_stats"]:
            output = node
        else:
            continue
        named = arguments(node)
        mean = tensor_of(module, named["running_mean"])
        variance = tensor_of(module, named["running_var"])
        if mean is None or variance is None:
            continue
        weight, bias = tensor_of(module, named["weight"]), tensor_of(module, named["bias"])
        scale = (variance.double() + named["eps"]).rsqrt()
        if weight is not None:
            scale = scale * weight.double()
        shift = -mean.double() * scale
        if bias is not None:
            shift = shift + bias.double()
        yield _Norm(named["input"], output, scale.detach(), shift.detach())


@dataclass(frozen=True)
class _Layer:
    """A convolution or a linear layer on (N, C), whose weight and bias are stored."""

    node: Node
    weight: Tensor
    bias: Tensor | None
    groups: int
    transposed: bool
    padded: bool


def _layer(module: GraphModule, node: Node | None) -> _Layer | None:
    if node is None:
        return None
    if conv := read_convolution(node):
        weight, bias_node = tensor_of(module, conv.weight), conv.bias
        groups, transposed = conv.groups, conv.transposed
        padded = conv.padding is None or any(conv.padding)
    elif is_call(node, aten.linear) and node.meta["val"].dim() == 2:
        named = arguments(node)
        weight, bias_node = tensor_of(module, named["weight"]), named["bias"]
        groups, transposed, padded = 1, False, False
    else:
        return None
    bias = tensor_of(module, bias_node)
    if weight is None or (bias is None and bias_node is not None):
        return None
    return _Layer(node, weight, bias, groups, transposed, padded)


def _layer_behind_views(module: GraphModule, x: Node) -> _Layer | None:
    """The layer whose outputs `x` is, seen otherwise by nobody else.

    A convolution behind slices of rows and columns, or a linear layer behind views and permutes.
    """
    node = x
    while is_call(node, aten.slice) and arguments(node)["dim"] >= 2:
        node = _source(node)
    if node is not x:
        only = all(only_user(n) is not None for n in _between(node, x))
        return _layer(module, node) if only and read_convolution(node) else None
    while is_call(node, aten.view, aten.reshape, aten.permute):
        before, after = _source(node), node.meta["val"].shape
        if is_call(node, aten.permute):
            batch_first = arguments(node)["dims"][0] == 0
        else:
            batch_first = statically_known_true(after[0] == before.meta["val"].shape[0])
        fixed = all(isinstance(n, int) for n in after[1:])
        if not batch_first or not fixed or only_user(before) is None:
            return None
        node = before
    return _layer(module, node) if node is not x and is_call(node, aten.linear) else None


def _source(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _between(layer: Node, x: Node) -> list[Node]:
    """From `x`, a view of `layer`, back to the layer: what each view is of."""
    found = []
    while x is not layer:
        x = _source(x)
        found.append(x)
    return found


def _on_outputs(x: Node, layer: Node, vector: Tensor) -> Tensor:
    """A number per channel (axis 1) of `x` as one per output of the layer that `x` is a view of."""
    if x is layer or not is_call(layer, aten.linear):
        return vector
    places = torch.arange(layer.meta["val"].shape[1])[None]
    for view in reversed([x, *_between(layer, x)][:-1]):
        if is_call(view, aten.permute):
            places = places.permute(*arguments(view)["dims"])
        else:
            places = places.reshape(1, *view.meta["val"].shape[1:])
    spread = torch.empty(places.numel(), dtype=vector.dtype)
    channels = vector.reshape(-1, *[1] * (places.dim() - 2))
    spread[places.flatten()] = channels.expand(places.shape[1:]).flatten()
    return spread


def fold_norms_back(module: GraphModule) -> int:
    """Fold a norm into the layer that it alone reads.

    x -> conv(w, b) -> norm(scale, shift)   becomes   x -> conv(w * scale, b * scale + shift)

    Also where a linear layer is seen as a picture, or a convolution cropped, before the norm.
    """
    count = 0
    for norm in _norms(module):
        layer = _layer(module, norm.x) or _layer_behind_views(module, norm.x)
        if layer is None or only_user(norm.x) is None:
            continue
        norm_scale, norm_shift = (
            _on_outputs(norm.x, layer.node, vector) for vector in (norm.scale, norm.shift)
        )
        weight = layer.weight.detach().double()
        if layer.transposed:  # (groups * in, out, ...): its outputs lie group by group
            grouped = weight.unflatten(0, (layer.groups, -1))
            scale = norm_scale.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
            weight = (grouped * scale).flatten(0, 1)
        else:
            weight = weight * norm_scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = norm_shift
        if layer.bias is not None:
            bias = layer.bias.detach().double() * norm_scale + bias
        _set_layer(module, layer, weight, bias)
        _bypass(module, norm)
        count += 1
    return count


def fold_norms_forward(module: GraphModule) -> int:
    """Fold a norm into the layer that alone reads it.

    x -> norm(scale, shift) -> conv(w, b)   becomes   x -> conv(w * scale, b + sum w * shift)

    Only without padding: the zeros come after the shift.
    """
    count = 0
    for norm in _norms(module):
        layer = _layer(module, only_user(norm.y))
        if layer is None or layer.node.args[0] is not norm.y:
            continue
        if layer.padded or layer.transposed or layer.groups != 1:
            continue
        weight = layer.weight.detach().double()
        vector = (1, -1, *[1] * (weight.dim() - 2))
        bias = (weight * norm.shift.reshape(vector)).flatten(1).sum(1)
        if layer.bias is not None:
            bias = bias + layer.bias.detach().double()
        _set_layer(module, layer, weight * norm.scale.reshape(vector), bias)
        _bypass(module, norm)
        count += 1
    return count


def _bypass(module: GraphModule, norm: _Norm) -> None:
    """Erased at once: what is left of a norm would count as another reader of its input."""
    norm.y.replace_all_uses_with(norm.x)
    source = norm.y.args[0]
    module.graph.erase_node(norm.y)
    if isinstance(source, Node) and source is not norm.x:
        module.graph.erase_node(source)


def _set_layer(module: GraphModule, layer: _Layer, weight: Tensor, bias: Tensor) -> None:
    node, dtype = layer.node, layer.weight.dtype
    old_weight, old_bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    assert isinstance(old_weight, Node)
    name = layer_name(node)
    new_weight = replace_tensor(module, node, old_weight, weight.to(dtype))
    if isinstance(old_bias, Node):
        new_bias = replace_tensor(module, node, old_bias, bias.to(dtype))
    else:
        path = free_path(module, f"{name}.bias")
        new_bias = new_tensor_node(module, node, path, bias.to(dtype))
    node.args = (node.args[0], new_weight, new_bias, *node.args[3:])
