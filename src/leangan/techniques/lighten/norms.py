"""InstanceNorm as the affine that it is on average: it folds away, and costs nothing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.fuse import normalize
from leangan.graph.observe import observe
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
    seen = {node.all_input_nodes[0].name: _Statistics() for node in norms}
    observe(module, samples, {name: [one] for name, one in seen.items()})
    for number, node in enumerate(norms):
        named = arguments(node)
        found = seen[node.all_input_nodes[0].name]
        mean, variance = (torch.stack(x).mean(0) for x in (found.means, found.variances))
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


@dataclass
class _Statistics:
    """Means and variances over positions, per channel, one pair per sample."""

    means: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)

    def see(self, value: Tensor) -> None:
        axes = tuple(range(2, value.dim()))
        self.means.append(value.mean(axes).mean(0))
        self.variances.append(value.var(axes, unbiased=False).mean(0))
