"""Read from a graph and its history in what form the weights of its layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import codes_behind, tensor_of
from leangan.graph.weights import stored_weights
from leangan.techniques.histogram import Histogram, of_codebooks, of_steps
from leangan.techniques.layer_code import over_inputs
from leangan.techniques.placement import TRANSPOSED, groups_of, source_of

STEPS = ("quantize_linear", "quantize_codebook")
"""The steps of a history that quantize."""


@dataclass(frozen=True)
class EvenSteps:
    """A weight that is stored as whole numbers."""

    path: str
    """Of the weight in the float generator."""
    made: Tensor
    """The weight that is computed with."""
    stored: tuple[Tensor, ...]
    """What a file holds of it."""
    codes: Tensor
    scales: Tensor
    zero_points: Tensor
    """All three shaped as the weight."""
    low: int
    high: int
    per: str
    steps: int
    activation_bits: int | None
    factors: Tensor
    """Broadcastable to the weight: what input channels are divided by, and the float weight was
    multiplied by before it was rounded; 1 where nothing was."""

    @property
    def precision(self) -> str:
        """As in `Scheme.word`."""
        activations = f"a{self.activation_bits}" if self.activation_bits else ""
        return f"w{(self.levels - 1).bit_length()}{activations}"

    @property
    def levels(self) -> int:
        """Values that a weight may take with one step."""
        return self.high - self.low + 1

    @property
    def likely_noise(self) -> float | None:
        """Sum of squared errors when these are even within a step and nothing is clipped.

        None below 4 bits, where most weights lie within the step around zero.
        """
        return None if self.levels < 15 else float(self.scales.double().square().sum()) / 12

    def histogram(self, weight: Tensor | None) -> Histogram:
        """Of the float weight where it is known, else of the codes."""
        positions = None if weight is None else weight / self.scales + self.zero_points
        return of_steps(self.codes, positions, self.low, self.high)


@dataclass(frozen=True)
class Codebooks:
    """A float weight of few different values."""

    path: str
    made: Tensor
    stored: tuple[Tensor, ...]
    bits: int
    rows: Tensor
    """The weight, one row per codebook."""
    books: list[Tensor]
    """Per codebook its levels, ascending."""
    per: str = "codebook"
    activation_bits: int | None = None
    factors: Tensor = field(default_factory=lambda: torch.ones(()))
    likely_noise: float | None = None

    @property
    def precision(self) -> str:
        """For example "codebook 4"."""
        return f"codebook {self.bits}"

    @property
    def levels(self) -> int:
        """Of the codebook that has most."""
        return max(map(len, self.books))

    @property
    def steps(self) -> int:
        """The number of codebooks."""
        return len(self.books)

    def histogram(self, weight: Tensor | None) -> Histogram:
        """Of the float weight where it is known, else of the levels."""
        return of_codebooks(self.rows, self.books, weight)


def has_few_levels(generator: Generator) -> bool:
    """Whether some weights were quantized, to even steps or to codebooks."""
    return generator.quantized or any(s.name in STEPS for s in generator.history)


def forms(generator: Generator, module: GraphModule) -> dict[str, EvenSteps | Codebooks]:
    """By the name of the layer's node; a layer that is not quantized is not in it.

    Codebooks also by the weight's path, since several layers may read it.
    """
    return {**_codebooks(generator, module), **_even_steps(module)}


def told(generator: Generator) -> dict[str, Mapping[str, Any]]:
    """What the history saw of each layer when it was quantized, by the layer's name."""
    found: dict[str, Mapping[str, Any]] = {}
    for step in generator.history:
        if step.name in STEPS:
            found |= step.measured.get("layers", {})
    return found


def _even_steps(module: GraphModule) -> dict[str, EvenSteps | Codebooks]:
    found: dict[str, EvenSteps | Codebooks] = {}
    for node in module.graph.nodes:
        conv = read_convolution(node)
        if conv or is_call(node, aten.linear):
            weight = arguments(node)["weight"]
            code = codes_behind(weight)
            codes = tensor_of(module, code)
            if code is weight or codes is None:
                continue
            axis = 1 if conv is not None and conv.transposed else 0
            found[node.name] = _read(module, node, weight, str(code.target), codes, axis)
    return found


def _read(
    module: GraphModule, node: Node, weight: Node, path: str, codes: Tensor, axis: int
) -> EvenSteps:
    views: list[Node] = []
    back = weight
    while "dequantize" not in str(back.target):
        views.append(back)
        back = back.all_input_nodes[0]
    named = arguments(back)
    scales, zeros = (
        _numbers(module, named, one, many)
        for one, many in (("scale", "scales"), ("zero_point", "zero_points"))
    )
    beside = [1] * codes.dim()
    beside[named.get("axis") or 0] = -1

    def viewed(x: Tensor) -> Tensor:
        for view in reversed(views):
            x = view.target(x, *view.args[1:], **view.kwargs)  # type: ignore[operator]
        return x

    whole, step, zero = (
        viewed(t.expand(codes.shape).contiguous())
        for t in (codes, scales.reshape(beside), zeros.reshape(beside))
    )
    per = "tensor" if len(scales) == 1 else "channel"
    if len(scales) > whole.shape[axis]:
        per = "group"
    return EvenSteps(
        path.removesuffix("_int8"),
        (whole.float() - zero) * step,
        # A single step stands in the graph itself.
        (codes, scales, zeros) if named.get("scales") is not None else (codes,),
        whole,
        step,
        zero,
        named["quant_min"],
        named["quant_max"],
        per,
        len(scales),
        _activation_bits(node),
        _factors(module, node, whole),
    )


def _numbers(module: GraphModule, named: Mapping[str, Any], one: str, many: str) -> Tensor:
    if one in named:
        return torch.tensor([float(named[one])])
    stored = tensor_of(module, named[many])
    assert stored is not None
    return stored.detach().float()


def _activation_bits(node: Node) -> int | None:
    source = source_of(node)[0]
    if source.op != "call_function" or "dequantize" not in str(source.target):
        return None
    named = arguments(source)
    return int(named["quant_max"] - named["quant_min"]).bit_length()


def _factors(module: GraphModule, node: Node, weight: Tensor) -> Tensor:
    code = source_of(node)[0]
    while code.op == "call_function" and "quantize" in str(code.target):
        code = code.all_input_nodes[0]
    constant = code.args[1] if is_call(code, aten.mul) else None
    if isinstance(constant, Node) and str(constant.target).endswith("_input_factors"):
        divisors = tensor_of(module, constant)
        if divisors is not None:
            factors = 1 / divisors.detach().flatten()
            transposed = node.target in TRANSPOSED
            return over_inputs(factors, weight, transposed=transposed, groups=groups_of(node))
    return torch.ones(())


def _codebooks(generator: Generator, module: GraphModule) -> dict[str, EvenSteps | Codebooks]:
    # Without the history nobody could tell a codebook from a filter that has few values anyway.
    steps = [s for s in generator.history if s.name == "quantize_codebook"]
    if not steps:
        return {}
    bits, seen = int(steps[-1].settings["bits"]), told(generator)
    found: dict[str, EvenSteps | Codebooks] = {}
    for w in stored_weights(generator, module):
        number = seen.get(w.name, {}).get("codebooks")
        if number is None or w.tensor.shape[w.out_axis] % number:
            continue
        tensor = w.tensor.detach()
        rows = tensor.movedim(w.out_axis, 0).reshape(number, -1)
        books = [row.unique() for row in rows]
        if max(map(len, books)) <= 2**bits:  # else it was changed since
            form = Codebooks(w.path, tensor, (tensor,), bits, rows, books)
            found |= {w.node.name: form, w.path: form}
    return found
