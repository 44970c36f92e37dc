"""Which layer each node of ONNX Runtime's optimized graph computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leangan.runtimes.layer_names import layer_of
from leangan.runtimes.layer_times import Executed

if TYPE_CHECKING:
    import onnx

_HELPERS = frozenset(
    {
        "Cast", "DepthToSpace", "DequantizeLinear", "Gather", "Pad", "QuantizeLinear", "Reshape",
        "ReorderInput", "ReorderOutput", "Resize", "Slice", "SpaceToDepth", "Squeeze",
        "Transpose", "Unsqueeze", "Upsample",
    }
)  # fmt: skip
"""Operators that only bring values into another form or place."""
_BLOCKED = "_nchwc"
"""A convolution in blocks of channels is called by what it puts out, with this behind."""


def executed(written: Path, optimized: Path, ms: Mapping[str, float]) -> list[Executed]:
    """The nodes that were run, in order.

    Args:
        written: the model as it was built.
        optimized: what ONNX Runtime made of it.
        ms: milliseconds by name of the optimized node.
    """
    import onnx

    before = onnx.load(str(written), load_external_data=False).graph
    after = onnx.load(str(optimized), load_external_data=False).graph
    made_by = {value: node for node in before.node for value in node.output}
    makers = {value: node.name for node in after.node for value in node.output}
    return [
        Executed(
            node.name,
            ms.get(node.name, 0.0),
            layer_of(node.name) or _blocked(node, made_by),
            node.op_type in _HELPERS,
            tuple(makers[value] for value in node.input if value in makers),
        )
        for node in after.node
    ]


def _blocked(node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto]) -> str | None:
    """The layer of a convolution in blocks, to which an activation may have been fused."""
    value, mark, _ = node.name.rpartition(_BLOCKED)
    if not mark or "Conv" not in node.op_type:
        return None
    while value in made_by:
        layer = layer_of(made_by[value].name)
        if layer:
            return layer
        value = made_by[value].input[0] if made_by[value].input else ""
    return None


def floating(optimized: Path) -> Iterator[str]:
    """Kinds of the operators that put out float, in order; what makes float of 8 bits left out.

    Args:
        optimized: what ONNX Runtime made of a model; its types are followed from the inputs.
    """
    import onnx
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    graph = onnx.load(str(optimized), load_external_data=False).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        kind = kinds.get(next(filter(None, node.input), ""), TensorProto.UNDEFINED)
        if node.op_type == "QuantizeLinear":
            kind = TensorProto.UINT8
        elif node.op_type == "DequantizeLinear":
            kind = TensorProto.FLOAT
        elif node.op_type == "Shape":
            kind = TensorProto.INT64
        elif node.op_type == "Cast":
            kind = next(a.i for a in node.attribute if a.name == "to")
        kinds |= dict.fromkeys(node.output, kind)
        if kind in floats and node.op_type not in ("Cast", "DequantizeLinear"):
            yield node.op_type
