"""The stored weights that layers compute with, and a program with other values in some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.operators import Convolution, arguments, aten, is_call, read_convolution
from leangan.graph.rewrite import tensor_of


@dataclass(frozen=True)
class StoredWeight:
    """One stored weight of convolutions or linear layers, as the first of them reads it."""

    path: str
    tensor: Tensor
    node: Node
    """The layer."""
    x: Node
    bias: Node | None
    conv: Convolution | None
    """None for a linear layer."""
    lead: int
    """Axes in front of the layer's own: a modulated weight may be stored with one of size 1."""
    direct: bool
    """Whether the layer reads the weight itself, not what is computed of it."""
    shared: bool
    """Whether more than one layer reads it."""

    @property
    def name(self) -> str:
        """The layer's name: the path without its last part."""
        return self.path.removesuffix(".weight")

    @property
    def kind(self) -> str:
        """The operator: conv2d, conv_transpose1d, linear, ..."""
        return str(self.node.target).split(".")[1]

    @property
    def transposed(self) -> bool:
        """Whether the weight is (in, out / groups, *kernel)."""
        return self.conv is not None and self.conv.transposed

    @property
    def in_axis(self) -> int:
        """The input axis of the stored tensor."""
        return self.lead + (0 if self.transposed else 1)

    @property
    def out_axis(self) -> int:
        """The output axis of the stored tensor."""
        return self.lead + (1 if self.transposed else 0)


def stored_weights(generator: Generator, module: GraphModule) -> list[StoredWeight]:
    """The weights of all convolutions and linear layers, each once, in the order of the graph.

    A weight that is computed counts as the largest stored one that it is made of.

    Args:
        generator: for its name.
        module: `generator.module()`.

    Raises:
        LeanganError: there is none.
    """
    layers: dict[int, list[tuple[str, Node, dict[str, Any]]]] = {}
    for node in module.graph.nodes:
        if read_convolution(node) or is_call(node, aten.linear):
            named = arguments(node)
            path = _stored(module, named["weight"])
            if path is not None:
                key = id(module.get_parameter(path))
                layers.setdefault(key, []).append((path, node, named))
    if not layers:
        raise LeanganError(f"{generator.name} has no convolution or linear layer with weights.")
    found = []
    for readers in layers.values():
        path, node, named = readers[0]
        tensor, conv = module.get_parameter(path), read_convolution(node)
        found.append(
            StoredWeight(
                path,
                tensor,
                node,
                named["input"],
                named["bias"],
                conv,
                tensor.dim() - (conv.axes + 2 if conv else 2),
                tensor_of(module, named["weight"]) is not None,
                len(readers) > 1,
            )
        )
    return found


def stored_pair(module: GraphModule, conv: Convolution) -> tuple[Tensor, Tensor | None] | None:
    """A convolution's weight and bias, detached; None where one of them is not stored.

    The second is None where there is no bias. Shapes as in `Convolution`.
    """
    weight, bias = tensor_of(module, conv.weight), tensor_of(module, conv.bias)
    if weight is None or (bias is None and conv.bias is not None):
        return None
    return weight.detach(), None if bias is None else bias.detach()


def stored_kernel(
    module: GraphModule, node: Node, *, transposed: bool
) -> tuple[Convolution, Tensor, Tensor | None] | None:
    """A 2-D convolution that can be taken apart, with its weight and bias; None for all else.

    One group, dilation 1, a padding that is known, and weights that are stored.
    """
    conv = read_convolution(node)
    if conv is None or conv.transposed is not transposed or conv.axes != 2 or conv.padding is None:
        return None
    stored = stored_pair(module, conv)
    if stored is None or conv.groups != 1 or set(conv.dilation) != {1}:
        return None
    return conv, *stored


def stored_kernels(
    module: GraphModule, *, transposed: bool
) -> Iterator[tuple[Convolution, Tensor, Tensor | None]]:
    """All of `stored_kernel`, in the order of the graph, which may be changed meanwhile."""
    for node in list(module.graph.nodes):
        found = stored_kernel(module, node, transposed=transposed)
        if found is not None:
            yield found


def with_weights(generator: Generator, new: Mapping[str, Tensor]) -> ExportedProgram:
    """The same program with other values in some parameters, by path; what was tied stays so."""
    program = copy.copy(generator.program)
    state = generator.program.state_dict
    changed = {id(state[path]): nn.Parameter(value.detach()) for path, value in new.items()}
    program._state_dict = {name: changed.get(id(t), t) for name, t in state.items()}
    return program


def _stored(module: GraphModule, node: Any) -> str | None:
    """The largest stored parameter that a weight is made of, by operators that move or scale."""
    best: str | None = None
    most, todo = 0, [node]
    while todo:
        one = todo.pop()
        if not isinstance(one, Node) or read_convolution(one) or is_call(one, aten.linear):
            continue
        tensor = tensor_of(module, one)
        if tensor is None:
            todo.extend(one.all_input_nodes)
        elif isinstance(tensor, nn.Parameter) and tensor.dim() > 1 and tensor.numel() > most:
            best, most = str(one.target), tensor.numel()
    return best
