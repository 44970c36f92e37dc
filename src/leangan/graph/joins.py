"""Convolutions of joined maps as sums of convolutions of each, so that nothing is joined."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from leangan.graph.operators import Convolution, aten, is_call, read_convolution
from leangan.graph.rewrite import exact, free_path, layer_name, new_tensor_node, tensor_of


@exact("joins-as-sums", "convolutions of joined maps")
def joins_as_sums(module: GraphModule) -> int:
    """Convolutions that read maps joined along the channels as sums.

    conv(cat(a, b))   becomes   conv_b(b) + conv_a(a)

    A dense block joins ever more of the same maps (Huang et al. 2017), and copies them each time
    where channels are the innermost axis in memory; runtimes add a sum to what a convolution puts
    out for nothing. For convolutions with groups 1 and stored weights whose joins only such
    convolutions read.
    """
    count = 0
    # From the end: a join of joins is gone when the inner ones are looked at.
    for join in reversed(list(module.graph.nodes)):
        parts = _parts(join)
        if parts is None:
            continue
        convs = [_readable(module, user, join) for user in join.users]
        if not convs or any(conv is None for conv in convs):
            continue
        for conv in convs:
            assert conv is not None
            _replace(module, conv, parts)
            count += 1
        module.graph.erase_node(join)
    return count


def _parts(node: Node) -> list[Node] | None:
    """The maps, innermost ones of joins of joins, that a node joins along the channels."""
    if not is_call(node, aten.cat) or (node.args[1] if len(node.args) > 1 else 0) != 1:
        return None
    found: list[Node] = []
    parts = node.args[0]
    assert isinstance(parts, list | tuple)
    for part in parts:
        if not isinstance(part, Node) or part.meta["val"].dim() != 4:
            return None
        found += _parts(part) or [part]
    return found if len(found) > 1 else None


def _readable(module: GraphModule, user: Node, join: Node) -> Convolution | None:
    conv = read_convolution(user)
    if conv is None or conv.x is not join or conv.transposed or conv.groups != 1 or conv.axes != 2:
        return None
    return conv if tensor_of(module, conv.weight) is not None else None


def _replace(module: GraphModule, conv: Convolution, parts: list[Node]) -> None:
    graph, node = module.graph, conv.node
    weight = tensor_of(module, conv.weight)
    assert weight is not None
    total: Node | None = None
    first = 0
    for number, part in enumerate(parts):
        channels = part.meta["val"].shape[1]
        path = free_path(module, f"{layer_name(node)}.part_{number}.weight")
        kernel = weight.detach()[:, first : first + channels].clone()
        stored = new_tensor_node(module, node, path, kernel)
        first += channels
        with graph.inserting_before(node):
            # The oldest map has the bias: its sum is there when the newest one is.
            args = (part, stored, None if total is not None else conv.bias, *node.args[3:])
            y = graph.create_node("call_function", node.target, args)
            total = y if total is None else graph.call_function(aten.add.Tensor, (y, total))
    assert total is not None
    node.replace_all_uses_with(total)
    graph.erase_node(node)
