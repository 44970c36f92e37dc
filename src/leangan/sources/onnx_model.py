"""Read an ONNX file into plain nodes and constants, and cut a part out of it by value names.

Nothing of the file is trusted: it is parsed as data, sizes are compared with what is there, and
weights that lie beside it are read from its own folder only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from leangan.errors import LeanganError, UsageError

_OLDEST, _NEWEST = 9, 23
_MOST_BYTES = 2**36
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL)


@dataclass(frozen=True)
class OnnxNode:
    """One operator."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    """Empty where an optional one is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Numbers, strings, lists of these, arrays; graphs stay protos."""
    opset: int

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or what the standard says that its absence means."""
        return self.attributes.get(name, default)

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True)
class OnnxInput:
    """One input of the graph."""

    name: str
    whole: bool
    """Whether it takes whole numbers: labels, indices."""
    shape: tuple[int | None, ...] | None
    """None for a free size; None as a whole where the file does not tell."""


@dataclass(frozen=True)
class OnnxGraph:
    """The nodes in an order in which they can run, and the stored tensors."""

    nodes: tuple[OnnxNode, ...]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    """Floats as float32, codes of 4 bits as int8."""


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse the file, with weights that it keeps in files beside it.

    Raises:
        LeanganError: it is no ONNX file, or damaged; or it points out of its folder.
    """
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf says it in many ways
        raise LeanganError(f"{path} is damaged, cut short, or no ONNX file.") from error
    if not model.graph.node:
        raise LeanganError(f"{path} is damaged, cut short, or no ONNX file: it has no operators.")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _read_beside(path, tensor)
    return model


def _read_beside(path: Path, tensor: TensorProto) -> None:
    """Put the bytes of a weight that lies in another file into the tensor."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    name = where.get("location", "")
    file = path.parent / name
    inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(path.parent))
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise LeanganError(
            f"{path} keeps the weight {tensor.name!r} at {name!r}, which is not in its folder: "
            "that is not read."
        )
    if not file.is_file():
        raise LeanganError(f"{path} keeps its weights in {file}, which is not there.")
    try:
        offset, length = int(where.get("offset", 0)), int(where.get("length", -1))
        left = file.stat().st_size - offset
        if offset < 0 or left < 0 or length > left:
            raise ValueError
    except ValueError:
        raise LeanganError(f"{file} is cut short: {tensor.name!r} is not in it.") from None
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(left if length < 0 else length)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def read_graph(model: onnx.ModelProto, name: str) -> OnnxGraph:
    """The main graph as plain values.

    Raises:
        LeanganError: another opset than 9 to 23, functions, operators of another domain, sparse
            or damaged tensors.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset is None or not _OLDEST <= opset <= _NEWEST:
        raise LeanganError(
            f"{name} uses opset {opset}; {_OLDEST} to {_NEWEST} are read. Convert it with "
            "onnx.version_converter, or export it again."
        )
    if model.functions:
        raise LeanganError(
            f"{name} defines operators of its own ({model.functions[0].name}), which are not "
            "read. Inline them with onnx.inliner.inline_local_functions first."
        )
    if model.graph.sparse_initializer:
        raise LeanganError(f"{name} holds sparse tensors, which are not read.")
    constants = {t.name: array_of(t, name) for t in model.graph.initializer}
    inputs = tuple(_input(v, name) for v in model.graph.input if v.name not in constants)
    return OnnxGraph(
        tuple(read_node(node, opset, name) for node in model.graph.node),
        inputs,
        tuple(value.name for value in model.graph.output),
        constants,
    )


def read_node(node: onnx.NodeProto, opset: int, name: str) -> OnnxNode:
    """One operator with its attributes as plain values."""
    title = node.name or (node.output[0] if node.output else "")
    if node.domain not in ("", "ai.onnx"):
        raise LeanganError(
            f"{name}: operator {node.op_type} {title!r} belongs to {node.domain}, not to ONNX, "
            "and is not read. Export without optimizations for one runtime."
        )
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        try:
            value = onnx.helper.get_attribute_value(attribute)
        except ValueError as error:
            raise LeanganError(f"{name}: {node.op_type} {title!r} is damaged.") from error
        if isinstance(value, TensorProto):
            value = array_of(value, name)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif not isinstance(value, int | float | onnx.GraphProto):
            value = list(value)
        attributes[attribute.name] = value
    return OnnxNode(node.op_type, title, tuple(node.input), tuple(node.output), attributes, opset)


def array_of(tensor: TensorProto, name: str) -> np.ndarray:
    """A stored tensor; floats as float32, 4-bit codes as int8.

    Raises:
        LeanganError: its bytes are not as many as its shape says.
    """
    try:
        if min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > _MOST_BYTES:
            raise ValueError
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # wrong lengths, unknown kinds
        raise LeanganError(
            f"{name} is damaged: the tensor {tensor.name!r} does not hold what its shape says."
        ) from error
    if tensor.data_type in _FLOATS:
        return array.astype(np.float32)
    if array.dtype.kind not in "biu":  # 4-bit integers of a package of their own
        return array.astype(np.int8)
    return array


def _input(value: onnx.ValueInfoProto, name: str) -> OnnxInput:
    tensor = value.type.tensor_type
    if tensor.elem_type not in (*_FLOATS, *_WHOLE):
        raise LeanganError(f"{name}: input {value.name!r} holds neither numbers nor labels.")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
            for d in tensor.shape.dim
        )
    return OnnxInput(value.name, tensor.elem_type in _WHOLE, shape)


def cut(
    model: onnx.ModelProto, starts: Sequence[str], ends: Sequence[str], name: str
) -> onnx.ModelProto:
    """The part of the model between two sets of values.

    Args:
        model: is left as it is.
        starts: values that become inputs, float; the model's own where empty.
        ends: values that become outputs; the model's own where empty.
        name: of the file, for messages.

    Raises:
        UsageError: there is no such value, or the part needs another input as well.
    """
    graph = model.graph
    written = {value: node for node in graph.node for value in node.output if value}
    given = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    stored = {tensor.name for tensor in graph.initializer}
    for value in (*starts, *ends):
        if value not in written and value not in {v.name for v in graph.input}:
            raise UsageError(f"{name} has no value {value!r}{_near(value, written)}.")
    outputs = list(ends) or [value.name for value in graph.output]
    inputs = list(starts) or [v.name for v in graph.input if v.name not in stored]
    wanted, needed, open_ = list(outputs), set[str](), set[str]()
    while wanted:
        value = wanted.pop()
        if value in inputs or value in needed or value in stored or not value:
            continue
        node = written.get(value)
        if node is None:
            open_.add(value)
            continue
        needed.update(v for v in node.output if v)
        wanted.extend(reads(node))
    if open_:
        raise UsageError(
            f"{name}: {', '.join(outputs)} also depends on {', '.join(sorted(open_))}; "
            "add --from for it, or for a value on the way."
        )
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.initializer[:]
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    part.graph.node.extend(nodes)
    read = {value for node in nodes for value in reads(node)}
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    for value in inputs:
        if value in read or not starts:
            part.graph.input.append(given.get(value) or _float_value(value))
    for value in outputs:
        part.graph.output.append(given.get(value) or _float_value(value))
    return part


def pictures_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs in NCHW where the file turns them from and to NHWC itself.

    Files that come from TensorFlow start with a Transpose of each picture, and end with one.

    Args:
        model: is changed in place, and returned.
    """
    graph = model.graph
    for value in graph.input:
        readers = [node for node in graph.node if value.name in node.input]
        if len(readers) == 1 and _turns(readers[0], [0, 3, 1, 2]):
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 4:
                turned = [
                    onnx.TensorShapeProto.Dimension.FromString(dims[i].SerializeToString())
                    for i in (0, 3, 1, 2)
                ]
                del dims[:]
                dims.extend(turned)
            _drop(graph, readers[0], readers[0].output[0], value.name)
    for value in graph.output:
        makers = [node for node in graph.node if value.name in node.output]
        inner = makers[0].input[0] if makers and _turns(makers[0], [0, 2, 3, 1]) else ""
        if inner and inner not in {v.name for v in (*graph.input, *graph.output)}:
            _drop(graph, makers[0], inner, value.name)
            value.type.tensor_type.ClearField("shape")
    return model


def _turns(node: onnx.NodeProto, order: list[int]) -> bool:
    perm = [list(a.ints) for a in node.attribute if a.name == "perm"]
    return node.op_type == "Transpose" and perm == [order]


def _drop(graph: onnx.GraphProto, node: onnx.NodeProto, old: str, new: str) -> None:
    """Take an operator out; what was called `old` is called `new` from now on."""
    graph.node.remove(node)
    del graph.value_info[:]
    for other in graph.node:
        for names in (other.input, other.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def reads(node: onnx.NodeProto) -> list[str]:
    """The values that an operator reads, also inside of its branches."""
    inner = [
        value
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        for n in graph.node
        for value in reads(n)
    ]
    return [value for value in (*node.input, *inner) if value]


def _float_value(name: str) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return value


def _near(name: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, 3, 0.6)
    return f"; near it are {', '.join(near)}" if near else ""
