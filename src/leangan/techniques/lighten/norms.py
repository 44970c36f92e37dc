"""InstanceNorm as the affine that it is on average: it folds away, and costs nothing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.fuse import normalize
from leangan.graph.operators import arguments, aten, is_call
from leangan.graph.rewrite import new_tensor_node, recapture, tidy
from leangan.techniques.order import refuse_quantized


def freeze_norms(generator: Generator, samples: Sequence[tuple[Tensor, ...]]) -> Generator:
    """Each instance normalization with the mean statistics of the samples in place of its own.

    What a picture's own statistics told the network is lost: training has to follow. Frozen, a
    norm folds into the layer beside it.

    Args:
        generator: float.
        samples: inputs to take the statistics of.

    Raises:
        UsageError: there is no data.
        LeanganError: there is no instance normalization.
    """
    refuse_quantized(generator, "Freeze norms")
    if not samples:
        raise UsageError("Statistics are taken of data, and there is none.")
    module = generator.module()
    norms = [n for n in module.graph.nodes if is_call(n, aten.instance_norm)]
    if not norms:
        raise LeanganError(f"{generator.name} has no instance normalization.")
    seen = _Statistics(module, norms)
    with torch.no_grad():
        for inputs in samples:
            seen.run(*inputs)
    for number, node in enumerate(norms):
        named = arguments(node)
        mean, variance = (torch.stack(x).mean(0) for x in seen.found[node])
        statistics = [
            new_tensor_node(module, node, f"frozen_norm_{number}.{name}", value, learned=False)
            for name, value in (("mean", mean), ("variance", variance))
        ]
        with module.graph.inserting_before(node):
            norm = module.graph.call_function(
                aten._native_batch_norm_legit_no_training.default,
                (named["input"], named["weight"], named["bias"], *statistics, 0.0, named["eps"]),
            )
            result = module.graph.call_function(operator.getitem, (norm, 0))
        node.replace_all_uses_with(result)
    tidy(module)
    return normalize(recapture(generator, module, Step("freeze_norms", {"norms": len(norms)})))


class _Statistics(Interpreter):
    """Means and variances over positions of what enters each norm, per channel."""

    def __init__(self, module: GraphModule, norms: Sequence[Node]) -> None:
        super().__init__(module)
        self.found: dict[Node, tuple[list[Tensor], list[Tensor]]] = {n: ([], []) for n in norms}

    def run_node(self, n: Node) -> Any:
        if n in self.found:
            x = self.env[n.all_input_nodes[0]]
            axes = tuple(range(2, x.dim()))
            means, variances = self.found[n]
            means.append(x.mean(axes).mean(0))
            variances.append(x.var(axes, unbiased=False).mean(0))
        return super().run_node(n)
