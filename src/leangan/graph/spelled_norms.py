"""Instance norms as plain arithmetic, for converters that lay them out the slow way or not at all."""

from __future__ import annotations

from typing import Any

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
    count = 0
    for node in list(module.graph.nodes):
        if not is_call(node, aten.instance_norm) or not arguments(node)["use_input_stats"]:
            continue
        named = arguments(node)
        x, axes = named["input"], node.meta["val"].dim() - 2
        with module.graph.inserting_before(node):
            y = _normalized(module, x, list(range(2, 2 + axes)), named["eps"])
            for key, operator in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
                vector = tensor_of(module, named[key])
                if vector is not None:
                    path = free_path(module, str(named[key].target))
                    shaped = vector.detach().reshape(1, -1, *[1] * axes)
                    factor = new_tensor_node(module, node, path, shaped)
                    y = module.graph.call_function(operator, (y, factor))
        node.replace_all_uses_with(y)
        module.graph.erase_node(node)
        count += 1
    return count


def _normalized(module: GraphModule, x: Node, dims: list[int], eps: float) -> Node:
    call: Any = module.graph.call_function
    centred = call(aten.sub.Tensor, (x, call(aten.mean.dim, (x, dims, True))))
    squares = call(aten.mul.Tensor, (centred, centred))
    spread = call(aten.add.Tensor, (call(aten.mean.dim, (squares, dims, True)), eps))
    return call(aten.mul.Tensor, (centred, call(aten.rsqrt.default, (spread,))))
