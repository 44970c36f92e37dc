"""Instance norms as plain arithmetic, for converters that lay them out the slow way."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.generator import Generator
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.rewrite import free_path, new_tensor_node, rewrite, tensor_of


def spell_norms(generator: Generator) -> Generator:
    """Every instance norm over the input's own statistics as means, products and a root.

    x -> instance_norm(weight, bias)
    becomes
    c = x - mean(x);  y = c * rsqrt(mean(c * c) + eps) * weight + bias

    The mean is taken off before squares are taken, so that nothing is lost to cancellation.
    """
    return rewrite(generator, "spell-norms", {"instance norms": replace_norms})


def replace_norms(module: GraphModule) -> int:
    """Replace them in place; returns how many."""
    norms = [n for n in module.graph.nodes if is_own_norm(n)]
    for node in norms:
        spell_norm(module, node, arguments(node)["eps"])
    return len(norms)


def is_own_norm(node: Any) -> bool:
    """Whether it is an instance norm over the input's own statistics."""
    return is_call(node, aten.instance_norm) and bool(arguments(node)["use_input_stats"])


def spell_norm(module: GraphModule, node: Node, eps: float | Tensor) -> None:
    """Replace one in place; `eps` may differ by channel (broadcastable to the input)."""
    named, graph = arguments(node), module.graph
    x, axes = named["input"], node.meta["val"].dim() - 2
    dims = list(range(2, 2 + axes))
    with graph.inserting_before(node):
        if isinstance(eps, Tensor):
            path = free_path(module, f"{node.name}_eps")
            least: Any = new_tensor_node(module, node, path, eps, learned=False)
        else:
            least = eps
        mean = graph.call_function(aten.mean.dim, (x, dims, True))
        y = graph.call_function(aten.sub.Tensor, (x, mean))
        squares = graph.call_function(aten.mul.Tensor, (y, y))
        variance = graph.call_function(aten.mean.dim, (squares, dims, True))
        spread = graph.call_function(aten.add.Tensor, (variance, least))
        inverse = graph.call_function(aten.rsqrt.default, (spread,))
        y = graph.call_function(aten.mul.Tensor, (y, inverse))
        for key, operator in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
            vector = tensor_of(module, named[key])
            if vector is not None:
                shaped = vector.detach().reshape(1, -1, *[1] * axes)
                path = free_path(module, str(named[key].target))
                factor = new_tensor_node(module, node, path, shaped)
                y = graph.call_function(operator, (y, factor))
    node.replace_all_uses_with(y)
    graph.erase_node(node)
