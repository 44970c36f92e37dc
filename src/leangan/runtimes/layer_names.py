"""Layers keep their names in the files that runtimes open, so that a profile can speak of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from leangan.generator import Generator

_NAMED = re.compile(r"layer\[(.+?)\]")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SCALINGS = ("Add", "Div", "Mul", "Sub")
_SECOND_ARGUMENT = re.compile(r"args = \(%\w+, %(\w+)")
"""In what the exporter notes of the operator that a node was made of."""


def name_layers(model: onnx.ModelProto, generator: Generator) -> None:
    """Name the nodes of layers after them: `layer[body.0]`, `layer[body.0]#2` at its second use.

    Args:
        model: what the exporter made of `generator`, still with its notes; changed in place.
        generator: says which stored weight is which layer's.
    """
    names = _names_by_path(generator)
    signature = generator.program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    makers = {value: node for node in model.graph.node for value in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        path = node.input[1]
        while path in makers and path not in names and makers[path].input:
            path = makers[path].input[0]  # dequantized, transposed, reshaped
        if path not in names:  # the exporter has transposed it, and it lost its name
            path = stored.get(_second_argument(node), "")
        if path in names:
            name = names[path]
            uses[name] = uses.get(name, 0) + 1
            node.name = f"layer[{name}]" + (f"#{uses[name]}" if uses[name] > 1 else "")
    for node in model.graph.node:
        # A runtime makes one of a layer and its scaling, and may call it by the latter.
        made = [makers[v] for v in node.input if v in makers and makers[v].input]
        if node.op_type in _SCALINGS and len(made) == 1 and layer_of(made[0].name):
            node.name = f"{made[0].name}/{node.op_type}"


def layer_of(name: str) -> str | None:
    """The layer that a node was named after, None for any other node.

    Runtimes put something around the name where they take a node apart or change its form.
    """
    match = _NAMED.search(name)
    return match[1] if match else None


def _names_by_path(generator: Generator) -> dict[str, str]:
    """Layer names by the path of the stored weight."""
    from torch.fx import Node

    from leangan.graph.rewrite import layer_name

    found: dict[str, str] = {}
    for node in generator.module().graph.nodes:
        weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
        while isinstance(weight, Node) and weight.op == "call_function" and weight.args:
            weight = weight.args[0]
        if isinstance(weight, Node) and weight.op == "get_attr":
            found.setdefault(str(weight.target), layer_name(node))
    return found


def _second_argument(node: onnx.NodeProto) -> str:
    for note in node.metadata_props:
        match = _SECOND_ARGUMENT.search(note.value)
        if note.key.endswith("fx_node") and match:
            return match[1]
    return ""
