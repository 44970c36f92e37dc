"""Instance normalization that keeps the layout of pictures while it is trained on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from leangan.graph.operators import arguments
from leangan.graph.spelled_norms import is_own_norm


def norms_by_sample(module: GraphModule) -> int:
    """Compute instance norms sample by sample, in place; returns how many.

    PyTorch lays (N, C, H, W) out as (1, N * C, H, W) for them, which channels_last memory has to
    be copied for, forward and backward: a third of the time of a narrow CycleGAN's step. One
    sample after the other needs no copy, and is the same to rounding.
    """
    norms = [n for n in module.graph.nodes if is_own_norm(n)]
    for node in norms:
        named = arguments(node)
        with module.graph.inserting_before(node):
            made = module.graph.call_function(
                _by_sample, (named["input"], named["weight"], named["bias"], named["eps"])
            )
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.recompile()
    return len(norms)


def _by_sample(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Batch normalization of one sample is its instance normalization."""
    parts = x.split(1)
    return torch.cat(
        [torch.batch_norm(p, weight, bias, None, None, True, 0.0, eps, False) for p in parts]
    )
