"""Quantize operators where integer kernels want them: behind what computes, not what joins.

The quantized graph rounds what enters each layer. OpenVINO fuses that into the layer in front,
which then puts out 8 bits, but only if nothing stands between and if all of its channels share one
range. Otherwise it falls back to an operator of its own, to float layouts around it, and on CPUs
with AMX to convolutions that take twice the time. The edits here are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leangan.runtimes.onnx_codes import constants_of
from leangan.runtimes.onnx_fuse import drop_unused, readers_of

if TYPE_CHECKING:
    import onnx

_HOMOGENEOUS = {"Relu", "LeakyRelu", "PRelu"}
"""Operators that put out f times as much for f times as much, where f is positive."""
_OUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


def round_before_joins(model: onnx.ModelProto) -> int:
    """Scale and round the parts of what is joined, not the whole; equal parts once.

    The layers of a dense block read joins of ever more of the same values.

    Args:
        model: changed in place.

    Returns:
        The number of joins.
    """
    from onnx import numpy_helper

    graph = model.graph
    parts = _Parts(model)
    readers = readers_of(graph)
    makers = {name: node for node in graph.node for name in node.output}
    backs = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    instead: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        back = backs.get(node.output[0]) if node.op_type == "QuantizeLinear" else None
        if back is not None and readers[node.output[0]] == 1 and parts.one_range(node):
            scaled = makers.get(node.input[0])
            factors = None
            if scaled is not None and readers[node.input[0]] == 1:
                factors = _factors(scaled, parts.constants)
            source = node.input[0] if scaled is None or factors is None else scaled.input[0]
            made = parts.rounded(source, factors, node, back)
            if made is not None:
                instead[back.output[0]] = made
                nodes += parts.take()
        nodes.append(node)
    if not parts.joined:
        return 0
    for node in nodes:
        for place, value in enumerate(node.input):
            node.input[place] = instead.get(value, value)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in parts.added.items())
    drop_unused(graph)
    return parts.joined


def round_before_shuffles(model: onnx.ModelProto) -> int:
    """Activate, scale and round the channels that a depth-to-space takes, not what it puts out.

    The layer in front puts out 8 bits then, of which a fourth as many bytes are moved.

    Args:
        model: changed in place.

    Returns:
        The number of depth-to-spaces.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants, readers = constants_of(model), readers_of(graph)
    takers = {name: node for node in graph.node for name in node.input}  # right if it is the one
    added: dict[str, np.ndarray] = {}
    count = 0
    for shuffle in [node for node in graph.node if node.op_type == "DepthToSpace"]:
        chain = [shuffle]
        while readers[chain[-1].output[0]] == 1 and chain[-1].op_type != "DequantizeLinear":
            taker = takers.get(chain[-1].output[0])
            if taker is None or not _is_alike(taker, chain[-1].output[0], constants):
                break
            chain.append(taker)
        back = chain[-1]
        if back.op_type != "DequantizeLinear":
            continue
        for node in chain[1:]:
            wide = node.op_type in ("Mul", "PRelu") and constants[node.input[1]].size > 1
            if wide:
                name = f"{node.input[1]}_before_{shuffle.output[0]}"
                added[name] = _of_what_it_takes(constants[node.input[1]], shuffle)
                node.input[1] = name
        chain[1].input[0] = shuffle.input[0]
        shuffle.input[0] = f"{back.output[0]}_channels"
        shuffle.output[0], back.output[0] = back.output[0], shuffle.input[0]
        graph.node.remove(shuffle)
        graph.node.insert(list(graph.node).index(back) + 1, shuffle)
        count += 1
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in added.items())
    if added:
        drop_unused(graph)
    return count


def _is_alike(node: onnx.NodeProto, value: str, constants: dict[str, np.ndarray]) -> bool:
    """Whether it does the same to all pixels of `value`, or of one of its channels."""
    numbers = [constants.get(name) for name in node.input[1:]]
    if node.input[0] != value or any(number is None for number in numbers):
        return False
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return all(number is not None and number.size == 1 for number in numbers)
    if node.op_type == "PRelu":
        (slope,) = numbers
        return slope is not None and slope.size == max(1, *slope.shape[-3:-2])
    return node.op_type in ("Relu", "LeakyRelu") or _factors(node, constants) is not None


def _of_what_it_takes(numbers: np.ndarray, shuffle: onnx.NodeProto) -> np.ndarray:
    """Numbers per channel that a depth-to-space puts out, for those that it takes."""
    settings = {a.name: a for a in shuffle.attribute}
    places = settings["blocksize"].i ** 2
    axis = numbers.ndim - 3
    if settings["mode"].s == b"CRD":
        return np.repeat(numbers, places, axis=axis)
    return np.concatenate([numbers] * places, axis=axis)


class _Parts:
    """Makes the operators that scale and round values, for equal ones once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.shape_inference import infer_shapes

        self.constants = constants_of(model)
        self.added: dict[str, np.ndarray] = {}
        self.joined = 0
        self._joins = {n.output[0]: n for n in model.graph.node if n.op_type == "Concat"}
        known = infer_shapes(model).graph.value_info if self._joins else ()
        self._widths = {
            v.name: v.type.tensor_type.shape.dim[1].dim_value
            for v in (*known, *model.graph.input)
            if len(v.type.tensor_type.shape.dim) > 1
        }
        self._made: dict[tuple[object, ...], str] = {}
        self._new: list[onnx.NodeProto] = []
        self._count = 0

    def take(self) -> list[onnx.NodeProto]:
        """What was made since the last call."""
        taken, self._new = self._new, []
        return taken

    def one_range(self, code: onnx.NodeProto) -> bool:
        """Whether all channels share it."""
        numbers = [self.constants.get(name) for name in code.input[1:]]
        return all(number is not None and number.size == 1 for number in numbers)

    def rounded(
        self,
        value: str,
        factors: np.ndarray | None,
        code: onnx.NodeProto,
        back: onnx.NodeProto,
    ) -> str | None:
        """The name of the value, scaled and rounded; None where widths of parts are not known."""
        leaves = self._leaves(value)
        widths = [self._widths.get(leaf, 0) for leaf in leaves]
        if factors is None or len(leaves) == 1:
            shares = [factors] * len(leaves)
        elif sum(widths) == factors.shape[1]:
            shares = list(np.split(factors, np.cumsum(widths)[:-1], axis=1))
        else:
            return None
        made = [
            self._one(leaf, mine, code, back) for leaf, mine in zip(leaves, shares, strict=True)
        ]
        if len(made) == 1:
            return made[0]
        self.joined += 1
        return self._node("Concat", made, {"axis": 1})

    def _leaves(self, value: str) -> list[str]:
        join = self._joins.get(value)
        if join is None or [a.i for a in join.attribute if a.name == "axis"] != [1]:
            return [value]
        return [leaf for part in join.input for leaf in self._leaves(part)]

    def _one(
        self, value: str, factors: np.ndarray | None, code: onnx.NodeProto, back: onnx.NodeProto
    ) -> str:
        numbers = [self.constants[name].tobytes() for name in code.input[1:]]
        key = (value, None if factors is None else factors.tobytes(), *numbers)
        if key not in self._made:
            if factors is not None:
                by = f"{value}_factors_{self._count}"
                self.added[by] = factors
                value = self._node("Mul", [value, by])
            value = self._node("QuantizeLinear", [value, *code.input[1:]])
            self._made[key] = self._node("DequantizeLinear", [value, *back.input[1:]])
        return self._made[key]

    def _node(self, kind: str, inputs: list[str], numbers: dict[str, int] | None = None) -> str:
        from onnx import helper

        self._count += 1
        name = f"{inputs[0]}_{kind}_{self._count}"
        self._new.append(helper.make_node(kind, inputs, [name], name))
        for key, number in (numbers or {}).items():
            self._new[-1].attribute.append(helper.make_attribute(key, number))
        return name


def _factors(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> np.ndarray | None:
    """What each channel is multiplied by, (1, channels, 1, ...), where that is all a node does."""
    found = constants.get(node.input[1]) if node.op_type == "Mul" else None
    if found is None or found.ndim < 3 or found.size != found.shape[1] or not (found > 0).all():
        return None
    return found


def sum_twice(model: onnx.ModelProto) -> int:
    """Compute a sum a second time where it is read both rounded and as it is.

    The residual stream of a generator is. OpenVINO fuses rounding only into what nothing else
    reads; a second sum costs less than the layouts around an operator that rounds. Its operands
    change places, or OpenVINO would see that it is the same one.

    Args:
        model: changed in place.

    Returns:
        The number of sums.
    """
    from onnx import helper

    graph = model.graph
    constants, readers = constants_of(model), readers_of(graph)
    makers = {name: node for node in graph.node for name in node.output}
    again: dict[int, onnx.NodeProto] = {}
    for code in graph.node:
        if code.op_type != "QuantizeLinear":
            continue
        taker, scaled = code, makers.get(code.input[0])
        if scaled is not None and _factors(scaled, constants) is not None:
            taker = scaled
        value = taker.input[0]
        made = makers.get(value)
        if made is None or made.op_type != "Add" or readers[value] == 1:
            continue
        if any(operand in constants for operand in made.input):
            continue
        name = f"{value}_again"
        taker.input[0] = name
        again[id(made)] = helper.make_node("Add", made.input[::-1], [name], name)
    nodes = [n for node in graph.node for n in (node, again.get(id(node))) if n is not None]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(again)


def scale_where_computed(model: onnx.ModelProto) -> int:
    """Divide by the factors of input channels in the weights that compute these channels.

    Cross-layer equalization (Nagel et al. 2019): a convolution, an activation that is positively
    homogeneous, then a multiplication by a positive number per channel.

    Args:
        model: changed in place.

    Returns:
        The number of multiplications that are gone.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants, readers = constants_of(model), readers_of(graph)
    makers = {name: node for node in graph.node for name in node.output}
    quantized = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    added: dict[str, np.ndarray] = {}
    gone: dict[str, str] = {}
    for node in graph.node:
        factors = _factors(node, constants) if node.output[0] in quantized else None
        if factors is None:
            continue
        value, by = node.input
        layer = makers.get(value)
        while layer is not None and layer.op_type in _HOMOGENEOUS and readers[value] == 1:
            value = layer.input[0]
            layer = makers.get(value)
        if layer is None or readers[value] != 1:
            continue
        if layer.op_type not in _OUT_AXIS or _groups(layer) != 1:
            continue
        names = _per_channel(layer, makers, readers, constants, factors)
        if names is None:
            continue
        for owner, place, name in names:
            array = constants[name]
            scaled = f"{name}_over_{by}"
            axes = [1] * array.ndim
            axes[_OUT_AXIS[layer.op_type] if array.ndim > 1 else 0] = -1
            added[scaled] = (array * factors.reshape(axes)).astype(array.dtype)
            owner.input[place] = scaled
        gone[node.output[0]] = node.input[0]
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in added.items())
    for node in graph.node:
        for place, value in enumerate(node.input):
            node.input[place] = gone.get(value, value)
    drop_unused(graph)
    return len(gone)


def _per_channel(
    layer: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, int],
    constants: dict[str, np.ndarray],
    factors: np.ndarray,
) -> list[tuple[onnx.NodeProto, int, str]] | None:
    """Which input of which node holds numbers per output channel; None where not all do."""
    found = []
    weight = makers.get(layer.input[1])
    if weight is not None and weight.op_type == "DequantizeLinear":
        axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
        scales = constants.get(weight.input[1])
        if readers[layer.input[1]] != 1 or axis != _OUT_AXIS[layer.op_type]:
            return None
        if scales is None or scales.size != factors.size:
            return None
        found.append((weight, 1, weight.input[1]))
    elif layer.input[1] in constants:
        found.append((layer, 1, layer.input[1]))
    else:
        return None
    if len(layer.input) > 2:
        if layer.input[2] not in constants:
            return None
        found.append((layer, 2, layer.input[2]))
    return found


def _groups(layer: onnx.NodeProto) -> int:
    return next((a.i for a in layer.attribute if a.name == "group"), 1)
