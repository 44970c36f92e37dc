"""Train through rounding: quantization-aware training of a graph that is quantized already.

Integers have no gradient. While it is trained, each pair of quantize and dequantize operators is
one that rounds floats the same way and lets gradients through (straight-through estimator, Bengio
et al. 2013), and its step is learned with the weights: Esser et al. 2020, "Learned Step Size
Quantization". Afterwards the integers are written back into the same graph, so that runtimes get
the very form that they got before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError
from leangan.graph.operators import arguments
from leangan.graph.rewrite import set_tensor, tensor_of

_PLACE = "rounding"
"""Where the modules lie in a graph that is trained."""


class _Rounding(nn.Module):
    """A step that is learned; subclasses say what is rounded by it."""

    start: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("start", scale.detach().float().clone())
        self.register_buffer("zero", zero.detach().float().clone())
        self.low, self.high = low, high
        # In logarithms one rate fits steps of any size, and none turns negative.
        self.change = nn.Parameter(torch.zeros_like(self.start))

    def scale(self) -> Tensor:
        """The step, float32 [steps]."""
        return self.start * self.change.exp()

    def pull(self, values: int) -> float:
        """How strongly a step is pulled beside a weight: section 2.2 of the paper."""
        return 1 / math.sqrt(max(1, values) * max(abs(self.low), self.high))


class RoundedInput(_Rounding):
    """What enters a layer, one step for the whole tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Float of any shape in, the same rounded out, float32."""
        return torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), self.scale(), self.zero, self.low, self.high,
            self.pull(x.numel() // max(1, len(x))),
        )  # fmt: skip


class RoundedWeight(_Rounding):
    """A weight: floats that are trained, rounded whenever they are used."""

    def __init__(
        self, codes: Tensor, scale: Tensor, zero: Tensor, axis: int | None, low: int, high: int
    ) -> None:
        """Begins with what the codes stand for; `axis` is that of the steps, None for one step."""
        super().__init__(scale, zero, low, high)
        self.axis = axis
        beside = [1] * codes.dim()
        if axis is not None:
            beside[axis] = -1
        self.beside = beside
        step, offset = self.start.reshape(beside), self.zero.reshape(beside)
        self.weight = nn.Parameter((codes.float() - offset) * step)

    def forward(self) -> Tensor:
        """The rounded weight, float32, shaped as the codes."""
        pull = self.pull(self.weight.numel() // len(self.start))
        scale = self.scale()
        if self.axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(
                self.weight, scale, self.zero, self.low, self.high, pull
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            self.weight, scale, self.zero, self.axis, self.low, self.high, pull
        )

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers that the weight is stored as, int8."""
        step, offset = self.scale().reshape(self.beside), self.zero.reshape(self.beside)
        codes = (self.weight / step).round_().add_(offset).clamp_(self.low, self.high)
        return codes.to(torch.int8)


def insert_rounding(module: GraphModule) -> int:
    """Put modules that round and learn in place of quantize and dequantize operators.

    Args:
        module: of a quantized generator; changed in place.

    Returns:
        The number of modules.

    Raises:
        LeanganError: a dequantize operator stands where none of ours stands.
    """
    holder = nn.ModuleDict()
    module.add_module(_PLACE, holder)
    for node in [n for n in module.graph.nodes if "dequantize" in str(n.target)]:
        named = arguments(node)
        codes = tensor_of(module, named["input"])
        limits = int(named["quant_min"]), int(named["quant_max"])
        made: nn.Module
        if codes is not None:
            axis = named.get("axis")
            made = RoundedWeight(codes, *_step(module, named), axis, *limits)
            before: tuple[Node, ...] = ()
        else:
            code = named["input"]
            if not isinstance(code, Node) or "quantize" not in str(code.target):
                raise LeanganError(f"{node.name} reads integers that nothing quantizes.")
            made = RoundedInput(*_step(module, named), *limits)
            before = (arguments(code)["input"],)
        holder[node.name] = made
        with module.graph.inserting_before(node):
            call = module.graph.call_module(f"{_PLACE}.{node.name}", before)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
    module.graph.eliminate_dead_code()
    module.recompile()
    return len(holder)


def write_back(trained: GraphModule, plain: GraphModule) -> None:
    """Store what was learned as integers and steps.

    Args:
        trained: what `insert_rounding` was called on.
        plain: the quantized generator's own graph; changed in place.
    """
    nodes = {n.name: n for n in plain.graph.nodes}
    holder = trained.get_submodule(_PLACE)
    assert isinstance(holder, nn.ModuleDict)
    for name, made in holder.items():
        node = nodes[name]
        named = arguments(node)
        if isinstance(made, RoundedWeight):
            set_tensor(plain, str(named["input"].target), made.codes(), learned=False)
        assert isinstance(made, _Rounding)
        scale = made.scale().detach()
        if "scales" in named:
            set_tensor(plain, str(named["scales"].target), scale, learned=False)
            continue
        for one in (node, named["input"]):  # a single step stands in the operators themselves
            if one.op == "call_function":
                one.args = (one.args[0], float(scale), *one.args[2:])
    plain.recompile()


def _step(module: GraphModule, named: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Steps and zero points, [steps]."""
    if "scales" not in named:
        return torch.tensor([float(named["scale"])]), torch.tensor([float(named["zero_point"])])
    scales, zeros = (tensor_of(module, named[key]) for key in ("scales", "zero_points"))
    assert scales is not None
    assert zeros is not None
    return scales, zeros
