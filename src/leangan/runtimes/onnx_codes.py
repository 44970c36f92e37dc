"""Weights in even steps in ONNX files: codes of 4 or 8 bits that cost a runtime no speed.

Runtimes turn DequantizeLinear in front of a layer into an integer kernel where the layer's input
is quantized to 8 bits too. Where it is float, they run it again at every call. So there it becomes
plain arithmetic, which they compute once, on loading, and float kernels stay as fast as before:

    INT4 or INT8 codes -> Cast -> (Sub zero points) -> Mul scales

Codes that fit into 4 bits are stored so. In front of DequantizeLinear they are widened, on
loading too, since integer kernels know none but 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from leangan.runtimes.few_values import pack
from leangan.runtimes.onnx_file import declare_opset
from leangan.runtimes.onnx_fuse import drop_unused

if TYPE_CHECKING:
    import onnx

Kernel = Literal["float", "rounded", "integer"]
"""What a layer computes in: "rounded" is in float, on inputs that were quantized to 16 bits, or
with scales that change within an output channel."""
_CARE: tuple[Kernel, ...] = ("float", "rounded", "integer")
"""Codes of layers of several kinds are treated as the last of them needs it."""
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MOVES = {
    "Concat",
    "Pad",
    "DepthToSpace",
    "SpaceToDepth",
    "Resize",
    "Reshape",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Slice",
}
"""Operators behind which values that were quantized still are."""
_SMALL = 256
"""Codes up to which half of the bytes is not worth an operator."""


def weight_codes(model: onnx.ModelProto) -> dict[str, Kernel]:
    """The stored 8-bit codes of weights by name, and what their layers compute in."""
    from onnx import TensorProto

    graph = model.graph
    stored = {t.name for t in graph.initializer if t.data_type == TensorProto.INT8}
    constants = constants_of(model)
    makers = {value: node for node in graph.node for value in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)

    def kernel_of(layer: onnx.NodeProto, *, per_channel: bool) -> Kernel:
        node = makers.get(layer.input[0])
        while node is not None and node.op_type in _MOVES:
            node = makers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return "float"
        eight = len(node.input) < 3 or constants[node.input[2]].itemsize == 1
        return "integer" if eight and per_channel else "rounded"

    def kernels(value: str, *, per_channel: bool = True) -> Iterator[Kernel]:
        for node in readers.get(value, []):
            if node.op_type in ("Transpose", "Reshape"):
                along = per_channel and node.op_type == "Transpose"
                yield from kernels(node.output[0], per_channel=along)
            elif node.op_type in _WEIGHTED and value == node.input[1]:
                yield kernel_of(node, per_channel=per_channel)

    found: dict[str, Kernel] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            seen = {found.get(node.input[0], "float"), *kernels(node.output[0])}
            found[node.input[0]] = max(seen, key=_CARE.index)
    return found


def drop_16_bits(model: onnx.ModelProto) -> int:
    """Leave inputs that are rounded to 16 bits float.

    OpenVINO's plugin drops such rounding as too fine to matter, but its converter has let it
    swallow the ReLU in front by then, which would be lost.

    Returns:
        The number of places.
    """
    graph = model.graph
    constants = constants_of(model)
    makers = {value: node for node in graph.node for value in node.output}
    instead = {}
    for node in graph.node:
        rounded = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounded is not None and rounded.op_type == "QuantizeLinear":
            zero = constants.get(rounded.input[2]) if len(rounded.input) > 2 else None
            if zero is not None and zero.itemsize == 2:
                instead[node.output[0]] = rounded.input[0]
    for node in graph.node:
        for place, value in enumerate(node.input):
            node.input[place] = instead.get(value, value)
    drop_unused(graph)
    return len(instead)


def fits_4_bits(codes: np.ndarray) -> bool:
    """Whether it is worth storing them so, and can be done."""
    return codes.size > _SMALL and int(codes.min()) >= -8 and int(codes.max()) <= 7


def pack_codes(model: onnx.ModelProto) -> int:
    """Store and use the codes of weights as this module says; values stay the same.

    Args:
        model: changed in place; its opset rises where numbers of 4 bits are used.

    Returns:
        The number of weights that have codes.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    kernels = weight_codes(model)
    if not kernels:
        return 0
    constants = constants_of(model)
    nodes: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        if tensor.name not in kernels:
            continue
        # ONNX Runtime rounds float weights behind a quantized input to 8 bits of its own.
        plain = kernels[tensor.name] == "float"
        codes, narrow = constants[tensor.name], fits_4_bits(constants[tensor.name])
        if narrow:
            raw = pack(codes).tobytes()
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, TensorProto.INT4, codes.shape, raw, raw=True)
            )
        if narrow or plain:
            kind = TensorProto.FLOAT if plain else TensorProto.INT8
            wide = f"{tensor.name}_wide"
            nodes.append(helper.make_node("Cast", [tensor.name], [wide], wide, to=kind))
    made = {node.output[0] for node in nodes}
    added: dict[str, np.ndarray] = {}
    for node in graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" else ""
        if name not in kernels or f"{name}_wide" not in made:
            nodes.append(node)
        elif kernels[name] == "float":
            nodes += _arithmetic(node, constants, added)
        else:
            node.input[0] = f"{name}_wide"
            nodes.append(node)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in added.items())
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    declare_opset(model)
    return len(kernels)


def _arithmetic(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], added: dict[str, np.ndarray]
) -> list[onnx.NodeProto]:
    """The same as this DequantizeLinear on the widened codes; new constants go into `added`."""
    from onnx import helper

    name, scale = node.input[0], node.input[1]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [1] * constants[name].ndim
    if constants[scale].size > 1:
        shape[axis] = -1

    def add(value: str) -> str:
        array = constants[value].astype(np.float32).reshape(shape)
        called = f"{value}_{'x'.join(map(str, array.shape))}"
        added[called] = array
        return called

    nodes = []
    value = f"{name}_wide"
    if len(node.input) > 2 and constants[node.input[2]].any():
        centred = f"{node.output[0]}_centred"
        nodes.append(helper.make_node("Sub", [value, add(node.input[2])], [centred], centred))
        value = centred
    return [*nodes, helper.make_node("Mul", [value, add(scale)], list(node.output), node.name)]


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """By name what is stored, and what is a Cast of it, as the exporter leaves zero points."""
    from onnx import helper, numpy_helper

    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in found:
            to = next(a.i for a in node.attribute if a.name == "to")
            found[node.output[0]] = found[node.input[0]].astype(helper.tensor_dtype_to_np_dtype(to))
    return found
