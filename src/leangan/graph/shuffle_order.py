"""Pixel shuffles whose channels lie phase by phase, as CPUs copy them fastest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.graph.depth_to_space import depth_to_space
from leangan.graph.operators import aten, is_call, only_user, read_convolution
from leangan.graph.pointwise import reads_by_channel, replay
from leangan.graph.rewrite import exact, replace_tensor
from leangan.graph.weights import stored_pair


@exact("shuffle-by-phase", "pixel shuffles")
def shuffle_by_phase(module: GraphModule) -> int:
    """Pixel shuffles as depth-to-space with the channels of each phase side by side.

    x -> conv -> shuffle(r) -> [crop] -> relu
    becomes
    x -> conv, its outputs in another order -> relu -> depth-to-space (mode DCR) -> [crop]

    Where channels are the innermost axis in memory, each copy is then of all channels of a pixel,
    and the pointwise operators, now beside the convolution, are computed along with it. For
    convolutions with groups 1 whose weight is stored and that nothing else reads.
    """
    shuffles = module.graph.find_nodes(op="call_function", target=aten.pixel_shuffle.default)
    return sum(_reorder(module, node) for node in list(shuffles))


def _reorder(module: GraphModule, shuffle: Node) -> bool:
    rate = shuffle.args[1]
    assert isinstance(rate, int)
    squared = rate * rate
    before, start = _run_before(module, shuffle)
    conv = read_convolution(start)
    if conv is None or conv.transposed or conv.groups != 1 or conv.axes != 2:
        return False
    stored = stored_pair(module, conv)
    if stored is None:
        return False
    weight, bias = stored
    crops, after = _run_after(module, shuffle)

    def by_phase(tensor: Tensor, axis: int) -> Tensor:
        """Channel c * r * r + phase to phase * channels + c."""
        axis %= tensor.dim()
        return (
            tensor.unflatten(axis, (-1, squared)).transpose(axis, axis + 1).flatten(axis, axis + 1)
        )

    def once_a_phase(tensor: Tensor, axis: int) -> Tensor:
        return torch.cat([tensor] * squared, axis)

    graph, node = module.graph, conv.node
    ordered = replace_tensor(module, node, conv.weight, by_phase(weight, 0))
    offset = None
    if conv.bias is not None and bias is not None:
        offset = replace_tensor(module, node, conv.bias, by_phase(bias, 0))
    with graph.inserting_before(node):
        x = graph.node_copy(node)
    x.args = (conv.x, ordered, offset, *node.args[3:])
    x = replay(module, before, node, x, by_phase)
    x = replay(module, after, crops[-1] if crops else shuffle, x, once_a_phase)
    last = (*before, shuffle, *crops, *after)[-1]
    with graph.inserting_before(last):
        whole = shuffle.meta["val"].shape
        x = depth_to_space(graph, x, int(whole[1]), (rate, rate), whole)
        for crop in crops:
            x = graph.call_function(aten.slice.Tensor, (x, *crop.args[1:]))
    last.replace_all_uses_with(x)
    for old in reversed((node, *before, shuffle, *crops, *after)):
        graph.erase_node(old)
    return True


def _run_before(module: GraphModule, shuffle: Node) -> tuple[list[Node], Node | None]:
    """The pointwise operators that lead to the shuffle alone, and where they start."""
    run: list[Node] = []
    reader, node = shuffle, shuffle.args[0]
    while isinstance(node, Node) and only_user(node) is reader:
        source = node.args[0] if node.args else None
        if not isinstance(source, Node) or not reads_by_channel(module, node, source):
            return run, node
        run.insert(0, node)
        reader, node = node, source
    return run, None


def _run_after(module: GraphModule, shuffle: Node) -> tuple[list[Node], list[Node]]:
    """Crops behind the shuffle, and the pointwise operators behind those."""
    crops: list[Node] = []
    after: list[Node] = []
    node = shuffle
    while (user := only_user(node)) is not None:
        if not after and is_call(user, aten.slice) and user.args[1] in (2, 3):
            crops.append(user)
        elif reads_by_channel(module, user, node):
            after.append(user)
        else:
            break
        node = user
    return crops, after
