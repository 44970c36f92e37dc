"""Walk a float generator beside its quantized form, whose layers change one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.channels import Sliced
from leangan.graph.cost import layers as cost_layers
from leangan.graph.rewrite import tensor_of
from leangan.techniques.crop import crop
from leangan.techniques.layer_code import LayerCode, channel_shape
from leangan.techniques.lockstep import Lockstep
from leangan.techniques.placement import quantizable

_SAMPLES = 16
_SIZES = (128, 96, 64, 48, 32)
_MACS = 4e9
"""Inputs that rounding is fitted on, cut so that one run costs so many multiply-accumulates."""


class QuantizedLayer:
    """Stands in a graph for a layer's operator: computes with rounded input and weight."""

    def __init__(self, node: Node, weight: Tensor, code: LayerCode) -> None:
        """Take a layer's place.

        Args:
            node: of the float graph.
            weight: float, as stored.
            code: how it is quantized.
        """
        self.node = node
        self.scaled = code.scaled(weight, node)
        """The float weight that the codes stand for."""
        self.set(code)

    def set(self, code: LayerCode) -> None:
        """Compute as `code` says from now on."""
        self.code = code
        self.codes = code.grid.codes(self.scaled) if code.codes is None else code.codes
        self.values = code.grid.values(self.codes)
        self.shift = code.bias_shift

    def __call__(self, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        """What the layer puts out; `weight` is the float one, which it does not use."""
        operator: Any = self.node.target
        result: Tensor = operator(self.rounded_input(x), self.values, *rest)
        if self.shift is None:
            return result
        return result - self.shift.reshape(channel_shape(self.node, result))

    def rounded_input(self, x: Tensor) -> Tensor:
        """The input as its codes give it; gradients pass where nothing is clipped."""
        rounded = self.code.rounded_input(x.detach(), self.node)
        if not x.requires_grad or self.code.scheme.activation_bits is None:
            return rounded if self.code.scheme.activation_bits is not None else x
        factors = self.code.factors
        if factors is not None:
            x = x / factors.reshape(channel_shape(self.node, x))
        low = -self.code.input_zero_point * self.code.input_scale
        within = x.clamp(low, low + self.code.top * self.code.input_scale)
        return within + (rounded - within).detach()

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias to take a mean error off."""
        return len(self.node.args) > 2 and self.node.args[2] is not None


class QuantizedWalk(Lockstep):
    """Lockstep of a float graph and the same graph with its calibrated layers quantized."""

    def __init__(
        self,
        generator: Generator,
        calibration: Mapping[str, LayerCode],
        samples: Sequence[tuple[Tensor, ...]],
    ) -> None:
        """Prepare a walk.

        Args:
            generator: float.
            calibration: of the layers to quantize; others stay float.
            samples: inputs. Up to 16 of them are used, cut to 32 to 128 along each free axis.

        Raises:
            UsageError: no samples.
        """
        if not samples:
            raise UsageError("Fitting the rounding needs at least one calibration input.")
        original, changed = generator.module(), generator.module()
        changed.requires_grad_(requires_grad=False)
        self.layers: dict[str, QuantizedLayer] = {}
        """By the name of their node."""
        for name, node in quantizable(original).items():
            weight = tensor_of(original, node.args[1])
            assert weight is not None
            if name in calibration:
                layer = QuantizedLayer(node, weight.detach(), calibration[name])
                self.layers[node.name] = layer
        super().__init__(original, Sliced(changed, {}), _cut(generator, samples))
        for node in changed.graph.nodes:
            if node.name in self.layers:
                node.target = self.layers[node.name]

    @property
    def codes(self) -> dict[str, LayerCode]:
        """What the layers compute with, by their names."""
        return {layer.code.name: layer.code for layer in self.layers.values()}

    def keep_mean(self, node: Node) -> None:
        """Let the bias of a layer make up for the mean error of its output on the samples."""
        layer = self.layers[node.name]
        if not layer.has_bias:
            return
        layer.set(replace(layer.code, bias_shift=None))
        self.forget(node)
        errors = []
        for old, new in zip(self.originals(node), self.values(node), strict=True):
            error = new - old
            axes = [a for a, n in enumerate(channel_shape(layer.node, error)) if n == 1]
            errors.append(error.mean(axes))
        layer.set(replace(layer.code, bias_shift=torch.stack(errors).mean(0)))
        self.forget(node)

    def _differs(self, before: Node, after: Node) -> bool:
        return after.name in self.layers or super()._differs(before, after)


def _cut(generator: Generator, samples: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """A few inputs, their free axes cut in the middle: positions are many, and much alike."""

    def cut(inputs: tuple[Tensor, ...], most: int) -> tuple[Tensor, ...]:
        return crop(generator, inputs, lambda port, axis, size: most)

    few = samples[:: -(-len(samples) // _SAMPLES)]
    for most in _SIZES:
        tried = cut(few[0], most)
        if sum(layer.macs for layer in cost_layers(generator, tried)) <= _MACS:
            break
    return [cut(inputs, most) for inputs in few]
