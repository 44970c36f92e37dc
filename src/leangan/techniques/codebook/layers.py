"""The weights of a generator that get a codebook, and what their inputs look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.cost import layers as cost_layers
from leangan.graph.rewrite import tensor_of
from leangan.graph.weights import stored_weights
from leangan.techniques.crop import crop_share
from leangan.techniques.layer_code import over_inputs

_MACS = 2e11
"""Multiply-accumulates of one run of all samples: some seconds on one core."""
_SMALLEST = 0.5
"""Share of the typical size that crops have at least."""
_FEWEST = 2


@dataclass
class Layer:
    """One stored weight, with the first layer that reads it."""

    name: str
    path: str
    weight: Tensor
    axis: int
    """The output-channel axis."""
    bias: str | None
    transposed: bool
    groups: int
    shared: bool
    """Whether more than one layer reads it."""
    power: Tensor | None = None
    """Mean square of each input channel on calibration data, float64."""

    def over_inputs(self, values: Tensor) -> Tensor:
        """Numbers per input channel, laid out beside the weight (broadcastable to it)."""
        return over_inputs(values, self.weight, transposed=self.transposed, groups=self.groups)


def find_layers(
    generator: Generator, module: GraphModule, only: Sequence[str] | None
) -> list[Layer]:
    """The weights of convolutions and linear layers, each once, in the order of the graph.

    Raises:
        UsageError: a pattern of `only` fits no layer.
        LeanganError: there is no layer with stored weights.
    """
    own = _read_once(module)
    layers = [
        Layer(
            w.name, w.path, w.tensor.detach(), w.out_axis,
            str(w.bias.target) if w.bias is not None and str(w.bias.target) in own else None,
            w.transposed, w.conv.groups if w.conv else 1, w.shared,
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


def affordable(
    generator: Generator, samples: Sequence[tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """The samples, cropped in the middle and then fewer, until one run of all costs `_MACS`.

    Crops stay as large as half the typical size, since what is near a border is not typical; two
    samples stay whatever they cost.
    """
    known: dict[tuple[torch.Size, ...], int] = {}

    def macs(inputs: tuple[Tensor, ...]) -> int:
        shapes = tuple(x.shape for x in inputs)
        if shapes not in known:
            known[shapes] = sum(layer.macs for layer in cost_layers(generator, inputs))
        return known[shapes]

    free = [
        (i, axis, port.typical[axis])
        for i, port in enumerate(generator.signature.inputs)
        for axis, letter in enumerate(port.layout)
        if letter in "HWT" and port.shape[axis] is None
    ]
    cost = max(1, sum(macs(inputs) for inputs in samples))
    share = (_MACS / cost) ** (1 / max(1, len(free) // len(generator.signature.inputs)))
    total = 0
    found: list[tuple[Tensor, ...]] = []
    for inputs in samples:
        least = max(
            (_SMALLEST * usual / inputs[i].shape[axis] for i, axis, usual in free), default=1.0
        )
        cut = crop_share(generator, inputs, min(1.0, max(share, least)))
        total += macs(cut)
        if total > _MACS and len(found) >= _FEWEST:
            break
        found.append(cut)
    return found


def _read_once(module: GraphModule) -> set[str]:
    """Paths of the parameters that one node alone reads."""
    readers: Counter[int] = Counter()
    paths: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        stored = tensor_of(module, node)
        if isinstance(stored, nn.Parameter):
            readers[id(stored)] += len(node.users)
            paths[id(stored)] = str(node.target)
    return {paths[key] for key, count in readers.items() if count == 1}
