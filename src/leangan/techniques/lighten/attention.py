"""Generators without attention, which few runtimes are fast at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.observe import observe
from leangan.graph.operators import aten, is_call
from leangan.graph.rewrite import new_tensor_node, recapture, tidy
from leangan.techniques.lighten.shallow import residual_blocks
from leangan.techniques.order import refuse_quantized

_SELF = (aten.softmax, aten._softmax, aten.scaled_dot_product_attention)
_POOLS = (aten.mean, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d)
_WEIGHED = (aten.convolution, aten.conv1d, aten.conv2d, aten.linear, aten.addmm, aten.mm)


def drop_attention(generator: Generator, samples: Sequence[tuple[Tensor, ...]]) -> Generator:
    """Residual blocks of self-attention left out, gates of channels frozen at their average.

    A gate is what layers make of a map's averages over its positions and then scale or shift a
    map by (squeeze and excitation, Hu et al. 2018); frozen, it folds into what is beside it. What
    scales single positions stays. Training has to make up for what the picture as a whole told.

    Args:
        generator: float.
        samples: inputs to take the averages of.

    Raises:
        UsageError: there is no data, or the generator is quantized.
        LeanganError: there is no such attention.
    """
    refuse_quantized(generator, "Drop attention")
    if not samples:
        raise UsageError("Gates are frozen at their average over data, and there is none.")
    module = generator.module()
    dropped = []
    for add, (skip, inside) in residual_blocks(module).items():
        if any(is_call(node, *_SELF) for node in inside):
            dropped.append(add.name)
            add.replace_all_uses_with(skip)
    tidy(module)
    gates = _gates(module)
    averages = {gate.name: _Average() for gate in gates}
    observe(module, samples, {name: [one] for name, one in averages.items()})
    for gate in gates:
        value = torch.stack(averages[gate.name].values).mean(0, keepdim=True)
        gate.replace_all_uses_with(new_tensor_node(module, gate, f"frozen_{gate.name}", value))
    if not dropped and not gates:
        raise LeanganError(
            f"{generator.name} has no residual block of self-attention and no gated channels."
        )
    tidy(module)
    found = {"blocks": dropped, "gates": [gate.name for gate in gates]}
    return recapture(generator, module, Step("drop_attention", {}, found))


def _gates(module: GraphModule) -> list[Node]:
    """What hangs by layers on averages over positions, where it meets a map again."""
    pooled: dict[Node, bool] = {}  # whether a layer has seen them
    gates = []
    for node in module.graph.nodes:
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        known = [n for n in sources if n in pooled]
        if not _without_positions(node):
            gates += [n for n in known if pooled[n]]
        elif is_call(node, *_POOLS) and not known:
            pooled[node] = False
        elif known and len(known) == len(sources):
            pooled[node] = is_call(node, *_WEIGHED) or any(pooled[n] for n in known)
    return list(dict.fromkeys(gates))


def _without_positions(node: Node) -> bool:
    """Whether it holds numbers per channel alone."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() < 2:
        return False
    return all(isinstance(size, int) and size == 1 for size in value.shape[2:])


@dataclass
class _Average:
    """Per sample the average over its batch."""

    values: list[Tensor] = field(default_factory=list)

    def see(self, value: Tensor) -> None:
        self.values.append(value.mean(0))
