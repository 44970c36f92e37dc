"""How one layer is quantized: the codes of its weight and of its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leangan.graph.observe import Reach
from leangan.techniques.grid import Grid
from leangan.techniques.placement import TRANSPOSED, groups_of
from leangan.techniques.scheme import Scheme


@dataclass(frozen=True)
class LayerCode:
    """How one layer is quantized, and what that costs."""

    name: str
    source: str
    """Where its input was computed, or the first part of that; those with the same one share its
    range."""
    scheme: Scheme
    grid: Grid
    """Of the weight, times `factors` where there are any."""
    input_scale: float = 1.0
    input_zero_point: int = 0
    """Of the unsigned code of the input; not used where activations stay float."""
    factors: Tensor | None = None
    """float32 [in channels]: the input is divided by these before it is rounded, and the weight is
    multiplied by them, so that channels of unlike ranges share one step (cross-layer equalization,
    Nagel et al. 2019; SmoothQuant, Xiao et al. 2023)."""
    bias_shift: Tensor | None = None
    """float32 [out channels]: the mean error that rounding makes, to be taken off the bias."""
    range_by: str = "float"
    """How the input's range was chosen: "minmax" is all that was seen, "mse" has the least squared
    error, "between" is their geometric mean, "signature" is a port's known range; others as in
    `Scheme.range`; "float" where the input is not rounded."""
    codes: Tensor | None = None
    """Whole numbers as float, shaped as the weight, where rounding was fitted; else the nearest."""
    reach: Reach | None = None
    """Of what the float layer puts out, for runtimes that round that as well."""
    noise: float = 0.0
    """Mean squared error of the generator's (first) output when only this layer is quantized."""

    @property
    def top(self) -> int:
        """The largest code of the input."""
        return int(2 ** (self.scheme.activation_bits or 8)) - 1

    def scaled(self, weight: Tensor, node: Node) -> Tensor:
        """The weight times the factors of its input channels."""
        return weight if self.factors is None else scaled_inputs(weight, self.factors, node)

    def weight_codes(self, weight: Tensor, node: Node) -> Tensor:
        """Whole numbers as float, shaped as the weight."""
        return self.grid.codes(self.scaled(weight, node)) if self.codes is None else self.codes

    def rounded_input(self, x: Tensor, node: Node) -> Tensor:
        """What the codes of a layer's input stand for; the factors are in the weight."""
        if self.scheme.activation_bits is None:
            return x
        if self.factors is not None:
            x = x / self.factors.reshape(channel_shape(node, x))
        code = (x / self.input_scale).round_().add_(self.input_zero_point).clamp_(0, self.top)
        return code.sub_(self.input_zero_point).mul_(self.input_scale)


Calibration = Mapping[str, LayerCode]
"""By layer name; made once, applied to any choice of layers."""


def rounded(layer: LayerCode) -> Callable[[Node, tuple[object, ...]], Tensor]:
    """What its node puts out when input and weight are rounded as `layer` says.

    For one node: its weight is rounded at the first call.
    """
    weight: Tensor | None = None

    def compute(node: Node, args: tuple[object, ...]) -> Tensor:
        nonlocal weight
        x, w, *rest = args
        assert isinstance(x, Tensor)
        assert isinstance(w, Tensor)
        if weight is None:
            weight = layer.grid.values(layer.weight_codes(w, node))
        result: Tensor = node.target(layer.rounded_input(x, node), weight, *rest)  # type: ignore[operator]
        if layer.bias_shift is None:
            return result
        return result - layer.bias_shift.reshape(channel_shape(node, result))

    return compute


def channel_axis(node: Node) -> int:
    """Of the channels in a layer's input or result."""
    return -1 if node.target is torch.ops.aten.linear.default else 1


def channel_shape(node: Node, value: Tensor) -> list[int]:
    """The shape that one number per channel takes beside a layer's input or result."""
    shape = [1] * value.dim()
    shape[channel_axis(node)] = -1
    return shape


def over_inputs(values: Tensor, weight: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """Numbers per input channel, laid out beside the weight (broadcastable to it)."""
    rest = (1,) * (weight.dim() - 2)
    if transposed:
        return values.reshape(-1, 1, *rest)
    per = values.reshape(groups, -1)
    outs = weight.shape[0]
    return per.repeat_interleave(outs // groups, 0).reshape(outs, -1, *rest)


def scaled_inputs(weight: Tensor, factors: Tensor, node: Node) -> Tensor:
    """The weight of a layer times `factors` of its input channels."""
    transposed, groups = node.target in TRANSPOSED, groups_of(node)
    return weight * over_inputs(factors, weight, transposed=transposed, groups=groups)


def largest_per_input(weight: Tensor, node: Node) -> Tensor:
    """The largest absolute weight that each input channel meets: float [in channels]."""
    if node.target in TRANSPOSED:
        return weight.abs().flatten(1).amax(1)
    groups = groups_of(node)
    per = weight.abs().flatten(2).amax(2) if weight.dim() > 2 else weight.abs()
    return per.unflatten(0, (groups, -1)).amax(1).flatten()
