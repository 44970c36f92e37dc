"""The weights of a generator that get a codebook, and what their inputs look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.observe import Moments, observe
from leangan.graph.rewrite import tensor_of
from leangan.graph.weights import stored_weights


@dataclass
class Layer:
    """One stored weight, with the first layer that reads it."""

    name: str
    path: str
    weight: Tensor
    axis: int
    """The output-channel axis."""
    x: Node
    x_axis: int
    bias: str | None
    transposed: bool
    groups: int
    direct: bool
    """Whether the layer reads the weight itself, not what is computed of it."""
    shared: bool
    power: Tensor | None = None
    """Mean square of each input channel on calibration data, float64."""

    def over_inputs(self, values: Tensor) -> Tensor:
        """Numbers per input channel, laid out beside the weight (broadcastable to it)."""
        rest = (1,) * (self.weight.dim() - 2)
        if self.transposed:
            return values.reshape(-1, 1, *rest)
        per = values.reshape(self.groups, -1)
        return per.repeat_interleave(self.weight.shape[0] // self.groups, 0).reshape(
            self.weight.shape[0], -1, *rest
        )


def find_layers(
    generator: Generator, module: GraphModule, only: Sequence[str] | None
) -> list[Layer]:
    """The weights of convolutions and linear layers, each once, in the order of the graph.

    Raises:
        UsageError: a pattern of `only` fits no layer.
        LeanganError: there is no layer with stored weights.
    """
    layers = [
        Layer(
            w.name, w.path, w.tensor.detach(), w.out_axis, w.x, 1 if w.conv else -1,
            str(w.bias.target) if w.bias is not None and _own(module, w.bias) else None,
            w.transposed, w.conv.groups if w.conv else 1, w.direct, w.shared,
        )
        for w in stored_weights(generator, module)
        if w.tensor.is_floating_point()
    ]  # fmt: skip
    for pattern in only or ():
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            raise UsageError(
                f"{generator.name} has no layer {pattern!r}; `leangan inspect --layers` lists them."
            )
    return [w for w in layers if only is None or any(fnmatchcase(w.name, p) for p in only)]


def look_at_inputs(
    module: GraphModule, layers: Sequence[Layer], samples: Sequence[tuple[Tensor, ...]], seed: int
) -> None:
    """Fill in the power of each layer's input channels."""
    wanted: dict[tuple[str, int], Moments] = {}
    for layer in layers:
        if layer.direct:
            wanted.setdefault((layer.x.name, layer.x_axis), Moments(layer.x_axis, seed=seed))
    by_node: dict[str, list[Moments]] = {}
    for (name, _), moments in wanted.items():
        by_node.setdefault(name, []).append(moments)
    observe(module, samples, by_node)
    for layer in layers:
        if layer.direct:
            seen = wanted[layer.x.name, layer.x_axis]
            layer.power = seen.covariance.diagonal() + seen.mean.square()


def _own(module: GraphModule, node: Any) -> bool:
    """Whether a bias is a stored vector that only one layer reads."""
    stored = tensor_of(module, node)
    if not isinstance(stored, nn.Parameter):
        return False
    readers = sum(
        len(n.users)
        for n in module.graph.find_nodes(op="get_attr")
        if tensor_of(module, n) is stored
    )
    return readers == 1
