"""Operators that compute, as fixed-point operations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import tensor_of
from leangan.runtimes.fixed.moves import last, shape_of
from leangan.runtimes.fixed.network import (
    Format,
    Operation,
    Rectified,
    Scaled,
    Stored,
    Sum,
    Table,
    Weighted,
    covering,
    holding,
)
from leangan.techniques.read_quantized import EvenSteps

if TYPE_CHECKING:
    from leangan.runtimes.fixed.read import Reader

BITS = 16
"""Of weights and results that no plan gave fewer."""
_SCALE_BITS = 18
"""Of the factors that 8-bit weights are scaled by; what one input of a multiplier block takes."""
_TABLE_BITS = 10
"""Address bits of a table of a function: errors stay below the levels of an 8-bit picture."""


def read_weighted(reader: Reader, node: Node) -> None:
    """A linear layer or a convolution; the scales of 8-bit weights in an operation of their own."""
    _, x = reader.source(node)
    stride, padding = _geometry(reader, node, x)
    weight, scales = _weight(reader, node)
    outputs = weight.codes.shape[-1]
    bias_node = arguments(node)["bias"]
    stored = tensor_of(reader.module, bias_node)
    if bias_node is not None and stored is None:
        raise reader.refused(node, "its bias is computed")
    bias = np.zeros(outputs) if stored is None else _numbers(stored)
    inside = bias if scales is None else np.zeros(outputs)
    fraction = x.format.fraction + weight.format.fraction
    added = Stored.exactly(_codes(inside, fraction), fraction)
    largest = max(x.format.high, -x.format.low)
    sums = np.abs(weight.codes).reshape(-1, outputs).sum(0) * largest + np.abs(added.codes)
    accumulator = holding(-int(sums.max()), int(sums.max()), fraction)
    made = Weighted(
        node.name,
        (x.name,),
        last(shape_of(node)),
        reader.result(node) if scales is None else accumulator,
        weight,
        added,
        accumulator,
        stride,
        padding,
    )
    reader.add(node, made)
    if scales is not None:
        scaled = _scaled(f"{node.name}_scale", made, scales, bias, reader.result(node))
        reader.add(node, scaled)


def _geometry(reader: Reader, node: Node, x: Operation) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and padding."""
    conv = read_convolution(node)
    if conv is None:
        if len(x.shape) != 1:
            raise reader.refused(node, "a linear layer takes a vector")
        return (1, 1), (0, 0)
    if conv.transposed:
        raise reader.refused(
            node,
            "it has no transposed convolution, and only 2-D ones of groups 1 that have a stride "
            "and float weights can be made plain ones; leave this layer in float",
        )
    if conv.axes != 2 or conv.groups != 1 or set(conv.dilation) != {1} or conv.padding is None:
        raise reader.refused(node, "only 2-D ones of groups 1, dilation 1 and even padding work")
    (a, b), (c, d) = conv.stride, conv.padding
    return (a, b), (c, d)


def _weight(reader: Reader, node: Node) -> tuple[Stored, np.ndarray | None]:
    """Outputs last; and for each output the scale of its codes, where they are a plan's."""
    found = reader.forms.get(node.name)
    if isinstance(found, EvenSteps) and found.per != "group":
        codes = (found.codes - found.zero_points).numpy().astype(np.int64)
        scales = _numbers(found.scales.reshape(len(codes), -1)[:, 0])
        stored = Stored.exactly(codes, 0)
    else:
        tensor = found.made if found else tensor_of(reader.module, arguments(node)["weight"])
        if tensor is None:
            raise reader.refused(node, "its weight is computed")
        stored, scales = Stored.of(_numbers(tensor), BITS), None
    order = (1, 0) if stored.codes.ndim == 2 else (2, 3, 1, 0)
    return replace(stored, codes=stored.codes.transpose(order)), scales


def read_arithmetic(reader: Reader, node: Node) -> None:
    """A product, quotient, sum or difference with a constant; or the sum of two values."""
    named = arguments(node)
    a, b = list(named.values())[:2]
    if named.get("alpha", 1) != 1:
        raise reader.refused(node, "its alpha is not 1")
    form = reader.result(node)
    if is_call(node, aten.add) and a in reader.done and b in reader.done:
        x, y = (reader.operations[reader.done[n]] for n in (a, b))
        if x.shape != y.shape:
            raise reader.refused(node, "it adds values of different shapes")
        reader.add(node, Sum(node.name, (x.name, y.name), x.shape, form))
        return
    if a not in reader.done:
        if is_call(node, aten.sub, aten.div):
            raise reader.refused(node, "its first argument is a constant")
        a, b = b, a
    constant = _constant(reader, node, b)
    scale, bias = np.ones_like(constant), np.zeros_like(constant)
    if is_call(node, aten.mul, aten.div):
        scale = constant if is_call(node, aten.mul) else 1 / constant
    else:
        bias = constant if is_call(node, aten.add) else -constant
    x = reader.operations[reader.done[a]]
    reader.add(node, _scaled(node.name, x, scale, bias, form))


def _scaled(
    name: str, x: Operation, scale: np.ndarray, bias: np.ndarray, form: Format
) -> Operation:
    factors = Stored.of(scale, _SCALE_BITS)
    fraction = x.format.fraction + factors.format.fraction
    added = Stored.exactly(_codes(bias, fraction), fraction)
    return Scaled(name, (x.name,), x.shape, form, factors, added)


def _constant(reader: Reader, node: Node, argument: Any) -> np.ndarray:
    """One number per channel, that an operator takes beside what is computed."""
    number = isinstance(argument, int | float)
    tensor = torch.tensor(float(argument)) if number else tensor_of(reader.module, argument)
    if tensor is None:
        raise reader.refused(node, "it takes more than one computed value or a constant")
    channels, *others = shape_of(node)
    plain = [channels, *[1] * len(others)]
    if tensor.numel() > 1 and [*tensor.shape][-len(plain) :] != plain:
        raise reader.refused(node, "its constant is not one number, or one per channel")
    return np.broadcast_to(_numbers(tensor).ravel(), channels).copy()


def read_relu(reader: Reader, node: Node) -> None:
    """ReLU, LeakyReLU, and PReLU, which with slopes a is (1 - a) max(x, 0) + a x."""
    _, x = reader.source(node)
    form, slopes = reader.result(node), None
    if is_call(node, aten.leaky_relu):
        slopes = np.array([arguments(node)["negative_slope"]])
    elif is_call(node, aten.prelu):
        weight = tensor_of(reader.module, arguments(node)["weight"])
        if weight is None:
            raise reader.refused(node, "its slope is computed")
        slopes = _numbers(weight)
    if slopes is None or slopes.size == 1:
        slope = None if slopes is None else Stored.of(slopes, BITS)
        reader.add(node, Rectified(node.name, (x.name,), x.shape, form, slope))
        return
    above = Rectified(f"{node.name}_above", (x.name,), x.shape, x.format, None)
    none, furthest = np.zeros_like(slopes), max(x.format.high, -x.format.low)
    parts = [
        _scaled(name, of, scale, none, _product(of.format, scale, furthest))
        for name, of, scale in (
            (f"{node.name}_more", above, 1 - slopes),
            (f"{node.name}_all", x, slopes),
        )
    ]
    reader.operations |= {operation.name: operation for operation in (above, *parts)}
    reader.add(node, Sum(node.name, (parts[0].name, parts[1].name), x.shape, form))


def _product(form: Format, scale: np.ndarray, furthest: int) -> Format:
    most = math.ldexp(furthest, -form.fraction) * float(np.abs(scale).max())
    return covering(-most, most, BITS)


def read_function(reader: Reader, node: Node) -> None:
    """Any other function of one number, as a table; its input's step is what it errs least with."""
    before, x = reader.source(node)
    if any(isinstance(a, Node) and a is not before for a in node.args):
        raise reader.refused(node, "it takes more than one computed value or a constant")

    def function(values: np.ndarray) -> np.ndarray:
        given = [torch.from_numpy(values) if a is before else a for a in node.args]
        target: Any = node.target
        return _numbers(target(*given, **node.kwargs))

    seen = reader.seen[before.name]
    values = _numbers(torch.cat(seen.some))
    right = function(values)

    def error(form: Format) -> float:
        return float(((function(form.values(form.codes(values))) - right) ** 2).mean())

    widest = covering(2 * seen.low, 2 * seen.high, _TABLE_BITS)
    finer = (replace(widest, fraction=widest.fraction + more) for more in range(_TABLE_BITS))
    form = min(finer, key=error)
    addresses = np.arange(1 << form.bits)
    addresses[addresses > form.high] -= 1 << form.bits
    table = Stored.of(function(form.values(addresses)), BITS)
    source = reader.put_out(before, form, node.name)
    reader.add(node, Table(node.name, (source,), x.shape, table.format, table))


def read_quantize(reader: Reader, node: Node) -> None:
    """The plan's format of what enters a layer, its step rounded down to a power of two."""
    before, _ = reader.source(node)
    named = arguments(node)
    step, zero = named["scale"], named["zero_point"]
    fraction = -math.floor(math.log2(step))
    low, high = (
        round(math.ldexp((named[end] - zero) * step, fraction))
        for end in ("quant_min", "quant_max")
    )
    reader.done[node] = reader.put_out(before, holding(low, high, fraction), node.name)


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def _codes(values: np.ndarray, fraction: int) -> np.ndarray:
    return np.rint(np.ldexp(values, fraction)).astype(np.int64)
