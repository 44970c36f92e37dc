"""Chains of pointwise operators whose constants are stored and vary by channel at the most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.operators import POINTWISE, aten, is_call
from leangan.graph.rewrite import replace_tensor, tensor_of


def reads_by_channel(module: GraphModule, node: Node, source: Node) -> bool:
    """Whether `node` is pointwise in `source` and reads nothing else but constants by channel."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is not aten.prelu and packet not in POINTWISE:
        return False
    return all(
        other is source or _channel_axis(module, node, other) is not None
        for other in node.all_input_nodes
    )


def replay(
    module: GraphModule,
    run: Sequence[Node],
    start: Node,
    x: Node,
    channels: Callable[[Tensor, int], Tensor],
) -> Node:
    """Repeat the chain `run`, which reads `start`, on `x`.

    Args:
        module: is added to, in front of each node that is repeated.
        run: in order; each reads the one before it and constants by channel.
        start: what the first of them reads.
        x: has the channels of `start` in another order, or several times.
        channels: (constant, axis of its channels) to the one that fits `x`.
    """
    for node in run:
        put: dict[Node, Node] = {start: x}
        for other in node.all_input_nodes:
            if other is start:
                continue
            tensor, axis = tensor_of(module, other), _channel_axis(module, node, other)
            assert tensor is not None
            assert axis is not None
            if tensor.numel() > 1:
                put[other] = replace_tensor(module, node, other, channels(tensor.detach(), axis))
            else:
                put[other] = other
        with module.graph.inserting_before(node):
            x = module.graph.node_copy(node, put.__getitem__)
        start = node
    return x


def _channel_axis(module: GraphModule, node: Node, other: Node) -> int | None:
    """The axis along which a stored constant varies by channel; None when it is something else."""
    tensor = tensor_of(module, other)
    if tensor is None:
        return None
    if is_call(node, aten.prelu):
        return 0
    sizes = [axis - tensor.dim() for axis, size in enumerate(tensor.shape) if size != 1]
    return -3 if sizes in ([], [-3]) else None
