"""Weights of few values in ONNX files: tables and packed indices, which any runtime expands.

    UINT4 or UINT8 indices -> Cast -> (Add offsets of the groups) -> Gather from the table

All of it is constant, so that runtimes compute it once, on loading, and run as fast as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leangan.runtimes.few_values import Indexed, indexed, pack
from leangan.runtimes.onnx_file import declare_opset

if TYPE_CHECKING:
    import onnx


def index_weights(model: onnx.ModelProto) -> int:
    """Store float weights of few different values as tables and indices where that is smaller.

    Values are the same bit for bit.

    Args:
        model: changed in place; its opset rises where numbers of 4 bits are used.

    Returns:
        The number of weights.
    """
    from onnx import TensorProto, numpy_helper

    nodes, kept = [], []
    offsets: dict[tuple[bytes, tuple[int, ...]], str] = {}
    count = 0
    for tensor in model.graph.initializer:
        found = None
        if tensor.data_type == TensorProto.FLOAT:
            found = indexed(numpy_helper.to_array(tensor))
        if found is None:
            kept.append(tensor)
            continue
        count += 1
        tensors, chain = _expand(tensor.name, found, offsets)
        kept += tensors
        nodes += chain
    if count:
        nodes += model.graph.node
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(kept)
        declare_opset(model)
    return count


def _expand(
    name: str, found: Indexed, offsets: dict[tuple[bytes, tuple[int, ...]], str]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The tensors and operators that put out `name`; layers of one form share `offsets`."""
    from onnx import TensorProto, helper, numpy_helper

    shape = found.indices.shape
    if found.bits == 4:
        kind, raw = TensorProto.UINT4, pack(found.indices)
    else:
        kind, raw = TensorProto.UINT8, found.indices
    tensors = [helper.make_tensor(f"{name}_indices", kind, shape, raw.tobytes(), raw=True)]
    nodes = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    place = add("Cast", [f"{name}_indices"], f"{name}_place", to=TensorProto.INT32)
    if found.offsets is not None:
        key = found.offsets.tobytes(), found.offsets.shape
        if key not in offsets:
            offsets[key] = f"{name}_offsets"
            tensors.append(numpy_helper.from_array(found.offsets, offsets[key]))
        place = add("Add", [place, offsets[key]], f"{name}_place_in_table")
    table, half = f"{name}_table", found.half
    if half is None:
        tensors.append(numpy_helper.from_array(found.table, table))
    else:
        tensors.append(
            helper.make_tensor(table, TensorProto.BFLOAT16, half.shape, half.tobytes(), raw=True)
        )
        table = add("Cast", [table], f"{name}_levels", to=TensorProto.FLOAT)
    add("Gather", [table, place], name, axis=0)
    return tensors, nodes
