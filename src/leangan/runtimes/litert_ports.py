"""Inputs and outputs of a .tflite file in 8 bits, as cameras, screens and microcontrollers want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leangan.errors import LeanganError
from leangan.runtimes.litert_file import operator_code

if TYPE_CHECKING:
    from leangan.generator import Port


def byte_ports(model: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Make the float ports of a file int8, with their scale and zero point in the file.

    Both ends of a port's range are codes themselves: white stays white, and black black.

    Args:
        model: unpacked; its ports are in the signature's order.
        inputs: of the signature.
        outputs: of the signature.

    Raises:
        LeanganError: the range of a float port is not known; it is named.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    (signature,) = model.signatureDefs
    for stored, port in zip(signature.inputs, inputs, strict=True):
        outer, inner = _byte_tensor(model, stored.tensorIndex, port), stored.tensorIndex
        if outer != inner:
            graph.operators.insert(0, _operator(model, kinds.DEQUANTIZE, outer, inner))
            graph.inputs = [outer if i == inner else i for i in graph.inputs]
            stored.tensorIndex = outer
    for stored, port in zip(signature.outputs, outputs, strict=True):
        outer, inner = _byte_tensor(model, stored.tensorIndex, port), stored.tensorIndex
        if outer != inner:
            graph.operators.append(_operator(model, kinds.QUANTIZE, inner, outer))
            graph.outputs = [outer if i == inner else i for i in graph.outputs]
            stored.tensorIndex = outer


def _byte_tensor(model: Any, index: int, port: Port) -> int:
    """A new int8 tensor for that of a port; the same where it is int8 already."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    old = graph.tensors[index]
    if old.type == schema.TensorType.INT8:
        return index
    if port.range is None:
        raise LeanganError(
            f"Nothing says between which values port {port.name!r} lies, so it has no form in 8 "
            "bits; choose the precision int8, whose other ports are float32."
        )
    scale, zero = _scale(*port.range)
    new = schema.TensorT()
    new.name, new.shape, new.type = f"{port.name}_int8", old.shape, schema.TensorType.INT8
    new.quantization = schema.QuantizationParametersT()
    new.quantization.scale, new.quantization.zeroPoint = [scale], [zero]
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def _scale(low: float, high: float) -> tuple[float, int]:
    """The step and the code of 0 at which both ends of a range are codes."""
    steps = 254 if low == -high else 255  # around zero, 255 steps would have no code for it
    scale = (high - low) / steps
    return scale, round(127 - high / scale)


def _operator(model: Any, kind: int, source: int, target: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    op = schema.OperatorT()
    op.opcodeIndex = operator_code(model, kind, 1)
    op.inputs, op.outputs = [source], [target]
    return op
