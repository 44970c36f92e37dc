"""Modulated convolutions with the weights outside: no kernel for each image of a batch.

StyleGAN2 scales a kernel by each image's style, and by what keeps its output's variance, and runs
all images as groups of one convolution. As many groups as images are free is nothing that ONNX can
say, and no kernel of a runtime is fast at. Scaling the input and the output in place of the kernel
is the same function (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
appendix B), and the kernel is a stored tensor again, which can be quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.operators import arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import free_path, new_tensor_node, set_tensor, tensor_of

_VIEWS = (
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten.unsqueeze,
    aten.contiguous,
    aten.clone,
)


@dataclass
class _Modulated:
    """A kernel for each image, [N, out, in, *kernel]: a stored one times factors."""

    weight: Node
    """Reads the stored tensor."""
    value: Tensor
    """[out, in, *kernel]."""
    number: float = 1.0
    styles: list[Node] = field(default_factory=list)
    """[N, 1, in, 1, 1], one by one."""
    scales: list[Node] = field(default_factory=list)
    """[N, out, 1, 1, 1], one by one."""


def take_modulation_out(module: GraphModule) -> int:
    """Change in place; returns how many convolutions and sums of squares.

    conv(x, W * style * scale), as many groups as images   becomes   conv(x * style, W) * scale
    sum((W * style) ** 2), over in and kernel              becomes   style ** 2 @ sum(W ** 2)
    """
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, aten.sum):
            count += _replace_power(module, node)
    kernels: dict[Node, str] = {}
    for node in list(module.graph.nodes):
        conv = read_convolution(node)
        if conv is not None and isinstance(conv.groups, Node) and conv.axes == 2:
            kernels |= _replace_convolution(module, node, conv.groups, conv.transposed)
    module.graph.eliminate_dead_code()
    for stored, path in kernels.items():
        _take_over(module, stored, path)
    return count + len(kernels)


def _take_over(module: GraphModule, node: Node, path: str) -> None:
    """Give a kernel the name of the one that it stands for, where nothing reads that any more."""
    value = tensor_of(module, node)
    if value is None or module.graph.find_nodes(op="get_attr", target=path):
        return
    owner, _, leaf = str(node.target).rpartition(".")
    delattr(module.get_submodule(owner), leaf)
    set_tensor(module, path, value)
    node.target = path


def _replace_convolution(
    module: GraphModule, node: Node, batch: Node, transposed: bool
) -> dict[Node, str]:
    """The new kernel's node with the old one's path; nothing where it is another thing."""
    named = arguments(node)
    images, size = named["input"].meta["val"], batch.meta["val"]
    source = _behind_view(named["input"])
    kernel, turned = _behind_kernel(named["weight"])
    if source is None or kernel is None or turned != transposed or named["bias"] is not None:
        return {}
    x = source.meta["val"]
    found = _read(module, kernel)
    if (
        found is None
        or not _same(images.shape[0], 1)
        or not _same(x.shape[0], size)
        or not _same(x.shape[1], found.value.shape[1])
        or tuple(images.shape[2:]) != tuple(x.shape[2:])
    ):
        return {}
    graph = module.graph
    with graph.inserting_before(node):
        for style in found.styles:
            flat = _reshape(graph, style, [batch, found.value.shape[1], 1, 1])
            source = graph.call_function(aten.mul.Tensor, (source, flat))
        value = found.value * found.number
        stored = _store(module, node, found.weight, value.transpose(0, 1) if transposed else value)
        args = {**named, "input": source, "weight": stored, "groups": 1}
        y = graph.create_node("call_function", node.target, tuple(args.values()))
        outs = found.value.shape[0]
        for scale in found.scales:
            flat = _reshape(graph, scale, [batch, outs, 1, 1])
            y = graph.call_function(aten.mul.Tensor, (y, flat))
    height, width = node.meta["val"].shape[2:]
    for user in list(node.users):
        if _is_view_of_images(user, size, outs, (height, width)):
            user.replace_all_uses_with(y)
            graph.erase_node(user)
    if node.users:  # something else reads all images side by side
        with graph.inserting_before(node):
            sides = [graph.call_function(aten.sym_size.int, (y, axis)) for axis in (2, 3)]
            together = _reshape(graph, y, [1, -1, *sides])
        node.replace_all_uses_with(together)
    graph.erase_node(node)
    return {stored: str(found.weight.target)}


def _replace_power(module: GraphModule, node: Node) -> int:
    """The squared norms of modulated kernels, from the stored one's."""
    named = arguments(node)
    square: Any = node.args[0]
    dims = named.get("dim") or ()
    if not isinstance(square, Node) or sorted(d % 5 for d in dims) != [2, 3, 4]:
        return 0
    base = _squared(square)
    found = None if base is None else _read(module, base)
    if found is None or found.value.dim() != 4 or found.scales or not found.styles:
        return 0
    outs, ins = found.value.shape[:2]
    graph = module.graph
    with graph.inserting_before(node):
        batch = graph.call_function(aten.sym_size.int, (found.styles[0], 0))
        power: Node | None = None
        for style in found.styles:
            flat = _reshape(graph, style, [batch, ins])
            flat = graph.call_function(aten.mul.Tensor, (flat, flat))
            power = flat if power is None else graph.call_function(aten.mul.Tensor, (power, flat))
        norms = (found.value.double() * found.number).square().sum((2, 3)).float()
        stored = _store(module, node, found.weight, norms.t(), "norms")
        # No linear layer: what others divide by is not to be quantized.
        y = graph.call_function(aten.mm.default, (power, stored))
        if named["keepdim"]:
            y = _reshape(graph, y, [batch, outs, 1, 1, 1])
    node.replace_all_uses_with(y)
    graph.erase_node(node)
    return 1


def _squared(node: Node) -> Node | None:
    if is_call(node, aten.square) or (is_call(node, aten.pow) and node.args[1] == 2):
        base: Any = node.args[0]
        return base
    if is_call(node, aten.mul) and node.args[0] is node.args[1]:
        base = node.args[0]
        return base if isinstance(base, Node) else None
    return None


def _read(module: GraphModule, node: Any) -> _Modulated | None:
    """The stored kernel behind products and views, with the factors met on the way."""
    if not isinstance(node, Node):
        return None
    stored = tensor_of(module, node)
    if stored is not None:
        value = stored.detach()
        if value.dim() == 5 and value.shape[0] == 1:
            value = value[0]
        return _Modulated(node, value) if value.dim() == 4 else None
    if is_call(node, *_VIEWS):
        source: Any = node.args[0]
        if not isinstance(source, Node) or node.meta["val"].dim() != 5:
            return None
        before, after = source.meta["val"].shape, node.meta["val"].shape
        same = len(before) == 5 and all(map(_same, before, after))
        wider = len(before) == 4 and _same(after[0], 1) and all(map(_same, before, after[1:]))
        return _read(module, source) if same or wider else None
    if not is_call(node, aten.mul):
        return None
    for chain, factor in (node.args[:2], node.args[1::-1]):
        found = _read(module, chain)
        if found is None:
            continue
        if isinstance(factor, int | float):
            found.number *= factor
            return found
        if not isinstance(factor, Node) or factor.meta["val"].dim() != 5:
            return None
        shape = factor.meta["val"].shape
        outs, ins = found.value.shape[:2]
        if _fits(shape, (1, ins)):
            found.styles.append(factor)
        elif _fits(shape, (outs, 1)):
            found.scales.append(factor)
        else:
            return None
        return found
    return None


def _fits(shape: Sequence[Any], wanted: tuple[int, int]) -> bool:
    """Whether a factor has these numbers of outputs and inputs, and is one for all taps."""
    return all(map(_same, shape[1:], (*wanted, 1, 1)))


def _behind_view(node: Node) -> Node | None:
    """What is seen as one image with the channels of all, [N, C, H, W]."""
    if not is_call(node, aten.view, aten.reshape):
        return None
    source: Any = node.args[0]
    return source if source.meta["val"].dim() == 4 else None


def _behind_kernel(node: Node) -> tuple[Node | None, bool]:
    """What is seen as [N * out, in, ...], and whether its outs and ins changed places."""
    source = node
    while is_call(source, *_VIEWS) and (source.meta["val"].dim() == 4 or _copies(source)):
        before: Any = source.args[0]
        source = before
    if is_call(source, aten.transpose):
        base, *axes = source.args
        if sorted(axes) != [1, 2]:  # type: ignore[type-var]
            return None, False
        return base, True  # type: ignore[return-value]
    return (source, False) if source.meta["val"].dim() == 5 else (None, False)


def _copies(node: Node) -> bool:
    return is_call(node, aten.clone, aten.contiguous)


def _is_view_of_images(user: Node, batch: Any, outs: int, size: tuple[Any, Any]) -> bool:
    if not is_call(user, aten.view, aten.reshape):
        return False
    shape = user.meta["val"].shape
    return len(shape) == 4 and all(map(_same, shape, (batch, outs, *size)))


def _store(module: GraphModule, before: Node, like: Node, value: Tensor, leaf: str = "") -> Node:
    path = f"{str(like.target).rpartition('.')[0]}.{leaf}" if leaf else str(like.target)
    return new_tensor_node(module, before, free_path(module, path.lstrip(".")), value)


def _reshape(graph: Graph, x: Node, shape: list[Any]) -> Node:
    while is_call(x, *_VIEWS):
        before: Any = x.args[0]
        x = before
    return graph.call_function(aten.reshape.default, (x, shape))


def _same(a: Any, b: Any) -> bool:
    return statically_known_true(a == b)
