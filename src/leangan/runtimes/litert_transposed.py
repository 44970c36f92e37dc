"""Transposed convolutions on integer kernels, which LiteRT's converter leaves in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from leangan.runtimes.litert_file import add_constant, constant, kind_of

if TYPE_CHECKING:
    from leangan.generator import Generator


@dataclass(frozen=True)
class Kernel:
    """The weight of a transposed convolution, laid out as LiteRT does: (out, rows, columns, in)."""

    values: np.ndarray
    """float32."""
    scales: np.ndarray
    """float32 [out]; values are whole multiples of them."""


def transposed_kernels(generator: Generator) -> list[Kernel]:
    """Those of the 8-bit transposed convolutions of a completed generator."""
    from leangan.graph.operators import arguments, read_convolution
    from leangan.graph.rewrite import codes_behind, tensor_of

    module = generator.module()
    found = []
    for node in module.graph.nodes:
        conv = read_convolution(node)
        if conv is None or not conv.transposed or conv.axes != 2:
            continue
        values = tensor_of(module, codes_behind(conv.weight))
        scales = (
            tensor_of(module, arguments(conv.weight).get("scales")) if conv.weight.args else None
        )
        if values is not None and scales is not None:
            laid = values.detach().permute(1, 2, 3, 0).contiguous().numpy()
            found.append(Kernel(laid, scales.detach().numpy()))
    return found


def fuse_transposed(model: Any, kernels: Sequence[Kernel]) -> int:
    """Put integer weights and biases into a file, and drop the steps to float and back.

    DEQUANTIZE -> TRANSPOSE_CONV in float -> QUANTIZE   becomes   TRANSPOSE_CONV in int8

    Returns:
        The number of operators changed.
    """
    graph = model.subgraphs[0]
    makers = {int(op.outputs[0]): op for op in graph.operators}
    count = 0
    for op in list(graph.operators):
        if kind_of(model, op) != "TRANSPOSE_CONV" or len(op.inputs) < 4:
            continue
        before = makers.get(int(op.inputs[2]))
        readers = [o for o in graph.operators if op.outputs[0] in list(o.inputs)]
        kernel = _kernel(constant(model, int(op.inputs[1])), kernels)
        bias = constant(model, int(op.inputs[3]))
        if kernel is None or bias is None or len(readers) != 1 or before is None:
            continue
        after = readers[0]
        if kind_of(model, before) != "DEQUANTIZE" or kind_of(model, after) != "QUANTIZE":
            continue
        step = float(graph.tensors[before.inputs[0]].quantization.scale[0])
        name = f"transposed_{count}"
        codes = np.rint(kernel.values / kernel.scales[:, None, None, None]).astype(np.int8)
        weight = add_constant(model, f"{name}/weight", codes)
        _scaled(graph.tensors[weight], kernel.scales)
        steps = (step * kernel.scales.astype(np.float64)).astype(np.float32)
        whole = np.rint(bias / steps).clip(-(2**31), 2**31 - 1).astype(np.int32)
        biases = add_constant(model, f"{name}/bias", whole)
        _scaled(graph.tensors[biases], steps)
        op.inputs = [op.inputs[0], weight, before.inputs[0], biases]
        op.outputs = after.outputs
        code = model.operatorCodes[op.opcodeIndex]
        code.version = max(code.version, 3)
        graph.operators.remove(after)
        if not any(before.outputs[0] in list(o.inputs) for o in graph.operators):
            graph.operators.remove(before)
        count += 1
    return count


def _kernel(values: np.ndarray | None, kernels: Sequence[Kernel]) -> Kernel | None:
    if values is None:
        return None
    alike = (k for k in kernels if k.values.shape == values.shape)
    return next((k for k in alike if np.allclose(values, k.values, rtol=1e-5, atol=0)), None)


def _scaled(tensor: Any, scales: np.ndarray) -> None:
    from ai_edge_litert import schema_py_generated as schema

    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = scales.tolist()
    tensor.quantization.zeroPoint = [0] * len(scales)
    tensor.quantization.quantizedDimension = 0
