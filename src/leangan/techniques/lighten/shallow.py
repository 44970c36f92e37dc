"""Fewer residual blocks: those that the output misses least are left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Step
from leangan.graph.cost import layers
from leangan.graph.operators import aten, is_call
from leangan.graph.replay import Replay
from leangan.graph.rewrite import recapture, tidy
from leangan.techniques.crop import crop_share
from leangan.techniques.lighten.split import check_share
from leangan.techniques.order import refuse_quantized

_PROBES = 4
_HALF = 0.5


def drop_blocks(
    generator: Generator, share: float, samples: Sequence[tuple[Tensor, ...]]
) -> Generator:
    """Leave out residual blocks `x + f(x)`, one after the other, until `share` of the MACs is left.

    A block's importance is the mean squared error of the generator's output without it, measured
    again after each one that goes.

    Args:
        generator: float.
        share: of the multiply-accumulates to leave at most, between 0 and 1.
        samples: inputs to measure on.

    Raises:
        UsageError: the share makes no sense, or there is no data.
        LeanganError: there are no residual blocks, or all of them are not enough.
    """
    refuse_quantized(generator, "Drop blocks")
    check_share("drop_blocks", share)
    if not samples:
        raise UsageError("Which blocks are needed is measured on data, and there is none.")
    module = generator.module()
    costs: dict[str, int] = {}
    for layer in layers(generator):
        costs[layer.node] = costs.get(layer.node, 0) + layer.macs
    whole = left = sum(costs.values())
    probes = [crop_share(generator, x, _HALF) for x in samples[:_PROBES]]
    dropped: list[str] = []
    targets = [Replay(module, x).output for x in probes]
    while left > share * whole:
        blocks = residual_blocks(module)
        if not blocks:
            raise LeanganError(
                f"{generator.name} has {'no more' if dropped else 'no'} residual blocks to leave "
                f"out at {left / whole:.0%} of its multiply-accumulates."
            )
        replays = [Replay(module, x) for x in probes]
        errors = {}
        for add, (skip, _) in blocks.items():
            place = [n for n in add.args[:2] if isinstance(n, Node)].index(skip)
            keep = {add: lambda node, args, place=place: args[place]}
            errors[add] = sum(
                float((r.changed(keep) - t).square().mean())
                for r, t in zip(replays, targets, strict=True)
            )
        least = min(errors, key=lambda add: errors[add])
        skip, inside = blocks[least]
        left -= sum(costs.get(n.name, 0) for n in inside)
        dropped.append(least.name)
        least.replace_all_uses_with(skip)
        tidy(module)
    step = Step("drop_blocks", {"share": share}, {"dropped": dropped, "macs": left / whole})
    return recapture(generator, module, step)


def residual_blocks(module: GraphModule) -> dict[Node, tuple[Node, list[Node]]]:
    """By the node that adds: what is added to, and the nodes that only its other side needs.

    The innermost ones: a block that holds others is found again when they are gone.
    """
    found: dict[Node, tuple[Node, list[Node]]] = {}
    for add in module.graph.nodes:
        if not is_call(add, aten.add) or len([n for n in add.args[:2] if isinstance(n, Node)]) < 2:
            continue
        for skip, branch in (add.args[:2], add.args[1::-1]):
            inside = _between(branch, skip, add)
            if inside is not None:
                found[add] = skip, inside
                break
    return {
        add: (skip, inside)
        for add, (skip, inside) in found.items()
        if not any(n in found for n in inside)
    }


def _between(branch: Node, skip: Node, add: Node) -> list[Node] | None:
    """The nodes of a branch that begins at `skip` and that nothing else reads; None for no such."""
    inside: list[Node] = []
    todo, reached = [branch], False
    while todo:
        node = todo.pop()
        if node is skip:
            reached = True
            continue
        if node in inside:
            continue
        if node.op == "get_attr" or isinstance(node.meta.get("val"), torch.SymInt):
            continue  # weights, and sizes, which others may read too
        if node.op != "call_function" or any(u is not add and u not in inside for u in node.users):
            return None
        inside.append(node)
        todo.extend(node.all_input_nodes)
    return inside if reached and inside else None
