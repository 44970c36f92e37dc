"""What a .tflite file holds, and what is changed in it after conversion."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leangan.runtimes.base import counted

_TYPES = {"int8": "INT8", "int32": "INT32", "float16": "FLOAT16", "float32": "FLOAT32"}
"""What the format calls numpy's kinds."""
_FOR_CONVERTER = "keep_stablehlo_constant"
"""Metadata that no interpreter reads."""
_LARGE = 1024
"""Constants of up to this many elements stay float32: they weigh nothing."""
_ON_GPU = frozenset(
    {
        "ABS", "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "COS",
        "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DIV", "ELU", "EXP", "FULLY_CONNECTED",
        "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN",
        "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "PACK", "PAD", "POW", "PRELU", "REDUCE_MAX",
        "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SIN", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH",
        "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM",
        "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
    }
)  # fmt: skip
"""What the GPU delegate takes, by its source (tensorflow/lite/delegates/gpu, model_builder.cc and
the compatibility check). What it takes of these may depend on their settings too."""
_ROUNDING = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class Operator:
    """One operator of the file's main graph."""

    kind: str
    """For example CONV_2D."""
    kinds: tuple[str, ...]
    """Element types of what it reads and then puts out, INT8, FLOAT32, ...; constants too."""
    output: str
    """The name of its (first) output."""
    macs: int
    """Multiply-accumulates; 0 where there is no weight."""
    integer: bool
    """Whether its data, not counting shapes, go in and come out in 8 bits."""


def operators(data: bytes) -> list[Operator]:
    """The operators of a .tflite file in the order of execution."""
    return list(_operators(unpack(data)))


def outside_int8(data: bytes) -> str:
    """Operators that compute in float in a file that has 8-bit ones, in words for people."""
    return counted(o.kind for o in operators(data) if not o.integer and o.kind not in _ROUNDING)


def outside_gpu(data: bytes) -> str:
    """Operators of kinds that the GPU delegate of phones leaves to the CPU, in words."""
    return counted(o.kind for o in operators(data) if o.kind not in _ON_GPU | _ROUNDING)


def int8_share(data: bytes) -> float | None:
    """Share of the multiply-accumulates that run on 8-bit data and weights; None without any."""
    found = operators(data)
    whole = sum(o.macs for o in found)
    return sum(o.macs for o in found if o.integer) / whole if whole else None


def unpack(data: bytes) -> Any:
    """The file as objects of LiteRT's own schema, whose constants may be changed."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(bytearray(data))


def pack(model: Any) -> bytes:
    """The inverse of `unpack`."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _operators(model: Any) -> Iterator[Operator]:
    graph = model.subgraphs[0]
    for op in graph.operators:
        kind = kind_of(model, op)
        tensors = [graph.tensors[i] for i in [*op.inputs, *op.outputs] if i >= 0]
        kinds = tuple(_type_name(t) for t in tensors)
        out = graph.tensors[op.outputs[0]]
        data = [k for k, t in zip(kinds, tensors, strict=True) if k != "INT32" or t is out]
        yield Operator(kind, kinds, _text(out.name), _macs(kind, graph, op), set(data) == {"INT8"})


def _macs(kind: str, graph: Any, op: Any) -> int:
    def shape(place: int) -> list[int]:
        return [int(n) for n in graph.tensors[op.inputs[place]].shape]

    out = math.prod(int(n) for n in graph.tensors[op.outputs[0]].shape)
    if kind == "CONV_2D":
        return out * math.prod(shape(1)[1:])
    if kind == "DEPTHWISE_CONV_2D":
        return out * math.prod(shape(1)[1:3])
    if kind == "TRANSPOSE_CONV":  # output shape, weight (out, rows, columns, in), data
        return math.prod(shape(2)) * math.prod(shape(1)[:3])
    if kind == "FULLY_CONNECTED":
        return out * shape(1)[-1]
    if kind == "BATCH_MATMUL":
        left = shape(0)
        return out * (left[-2] if op.builtinOptions.adjX else left[-1])
    return 0


def kind_of(model: Any, op: Any) -> str:
    """The name of an operator's kind."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    return _text(code.customCode) if names[number] == "CUSTOM" else names[number]


def _type_name(tensor: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    return names[tensor.type]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def name_ports(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call the ports of the signature by their names; the converter numbers them."""
    (signature,) = model.signatureDefs
    for prefix, names in (("args_", inputs), ("output_", outputs)):
        found = signature.inputs if prefix == "args_" else signature.outputs
        found.sort(key=lambda port: int(_text(port.name).removeprefix(prefix)))
        for port, name in zip(found, names, strict=True):
            port.name = name


def ports(model: Any) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs, in the order of the signature."""
    (signature,) = model.signatureDefs
    inputs, outputs = signature.inputs, signature.outputs
    return [_text(p.name) for p in inputs], [_text(p.name) for p in outputs]


def constant(model: Any, index: int, kinds: Sequence[str] = ("float32",)) -> np.ndarray | None:
    """The constant that a tensor is; None for one that is computed, or of another kind."""
    from ai_edge_litert import schema_py_generated as schema

    if index < 0:
        return None
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    kind = next((k for k in kinds if getattr(schema.TensorType, _TYPES[k]) == tensor.type), None)
    if kind is None or data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), kind).reshape([int(n) for n in tensor.shape])


def add_constant(model: Any, name: str, value: np.ndarray) -> int:
    """Store an array as a constant; returns the number of its tensor."""
    from ai_edge_litert import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    tensor.name, tensor.shape = name, list(value.shape)
    tensor.type = getattr(schema.TensorType, _TYPES[str(value.dtype)])
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def halve(model: Any) -> None:
    """Store large float constants in half precision, unless they leave its range."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    widen = []
    for index in range(len(graph.tensors)):
        value = constant(model, index)
        if value is None or value.size <= _LARGE:
            continue
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            continue
        stored = add_constant(model, f"{_text(graph.tensors[index].name)}_half", half)
        graph.tensors[index].buffer = 0  # the empty one: it is computed from now on
        op = schema.OperatorT()
        op.opcodeIndex = operator_code(model, schema.BuiltinOperator.DEQUANTIZE, 3)
        op.inputs, op.outputs = [stored], [index]
        widen.append(op)
    graph.operators = [*widen, *graph.operators]
    tidy(model)


def operator_code(model: Any, number: int, version: int) -> int:
    """The place of a kind of operator in the file's list, entered there if it is not."""
    from ai_edge_litert import schema_py_generated as schema

    for place, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            code.version = max(code.version, version)
            return place
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def tidy(model: Any) -> None:
    """Keep equal constants once, leave out what nothing reads, and call values shortly.

    The converter calls them by the classes and paths of its modules and by its own functions.
    """
    graph = model.subgraphs[0]
    first: dict[tuple[int, tuple[int, ...], bytes], int] = {}
    same = list(range(len(graph.tensors)))
    for place in sorted({int(i) for op in graph.operators for i in op.inputs if i >= 0}):
        tensor = graph.tensors[place]
        data, rounded = model.buffers[tensor.buffer].data, tensor.quantization
        if data is not None and len(data) and (rounded is None or not _scales(rounded)):
            key = (tensor.type, tuple(int(n) for n in tensor.shape), bytes(data))
            same[place] = first.setdefault(key, place)
    for op in graph.operators:
        op.inputs = [same[i] if i >= 0 else -1 for i in op.inputs]
    graph.outputs = [same[i] for i in graph.outputs]
    ends = {int(i) for i in [*graph.inputs, *graph.outputs]}
    used = ends | {int(i) for op in graph.operators for i in [*op.inputs, *op.outputs] if i >= 0}
    for place in used - ends:
        graph.tensors[place].name = _short(_text(graph.tensors[place].name))
    _keep_tensors(model, sorted(used), same)
    _keep_kinds(model)
    model.metadata = [m for m in model.metadata or () if _text(m.name) != _FOR_CONVERTER]
    _keep_buffers(model)


def _scales(rounded: Any) -> int:
    return 0 if rounded.scale is None else len(rounded.scale)


def _short(name: str) -> str:
    return "" if "<locals>" in name else re.sub(r"^.*[./]", "", name).rstrip(";")


def _keep_tensors(model: Any, kept: Sequence[int], same: Sequence[int]) -> None:
    graph = model.subgraphs[0]
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs = [place[i] for i in graph.inputs]
    graph.outputs = [place[i] for i in graph.outputs]
    for op in graph.operators:
        op.inputs = [place[i] for i in op.inputs]
        op.outputs = [place[i] for i in op.outputs]
    for signature in model.signatureDefs:
        for port in [*signature.inputs, *signature.outputs]:
            port.tensorIndex = place[same[port.tensorIndex]]


def _keep_kinds(model: Any) -> None:
    used = sorted({op.opcodeIndex for op in model.subgraphs[0].operators})
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for op in model.subgraphs[0].operators:
        op.opcodeIndex = used.index(op.opcodeIndex)


def _keep_buffers(model: Any) -> None:
    """Those with data that something refers to, behind the empty one that all others share."""
    readers = [*model.subgraphs[0].tensors, *(model.metadata or ())]
    for reader in readers:
        data = model.buffers[reader.buffer].data
        if data is None or not len(data):
            reader.buffer = 0
    kept = sorted({0, *(reader.buffer for reader in readers)})
    place = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[i] for i in kept]
    for reader in readers:
        reader.buffer = place[reader.buffer]
