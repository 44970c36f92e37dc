"""An ONNX graph as a plain nn.Module, fit for torch.export: what is constant is computed once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import GraphProto
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from leangan.errors import LeanganError
from leangan.graph.capture import quiet
from leangan.graph.rewrite import free_path, set_tensor
from leangan.sources.onnx_host import MOST, Host, Value
from leangan.sources.onnx_model import OnnxGraph, OnnxNode, array_of, read_node, reads
from leangan.sources.onnx_operators import OPERATORS, run

_MOST_ELEMENTS = 2**28
_WEIGHTS: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "DequantizeLinear": ("scale", "zero_point"),
    "Gemm": ("weight", "bias"),
    "GroupNormalization": ("weight", "bias"),
    "InstanceNormalization": ("weight", "bias"),
    "LayerNormalization": ("weight", "bias"),
    "PRelu": ("weight",),
}
"""What the inputs behind the first are, of operators that need them as tensors."""
_LISTS = ("Resize", "Upsample", "Pad", "Clip")
"""Operators whose constants are numbers even where there are several."""
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_SPOKEN = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


@dataclass(frozen=True)
class _Step:
    """One operator in the order in which they run."""

    node: OnnxNode
    reads: tuple[Any, ...]
    """A value's name, a Host, a _Stored, or None where an input is left out."""
    done: tuple[str, ...]
    """Values that nobody reads afterwards."""


@dataclass(frozen=True)
class _Stored:
    """A weight of the module."""

    path: str


class OnnxModule(nn.Module):
    """Walks the operators.

    Args:
        graph: what `read_graph` read.
        name: of the file, for messages.

    Raises:
        LeanganError: the first operator that cannot be read is named.
    """

    def __init__(self, graph: OnnxGraph, name: str) -> None:
        super().__init__()
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.trial = False
        self.title = name
        self._constants = dict(graph.constants)
        self._aliases: dict[str, str] = {}
        self._behind: dict[str, int] = {}
        self._paths: dict[tuple[str, bool], str] = {}
        self._steps: list[_Step] = []
        self._written = {value.name for value in graph.inputs}
        for node in _needed(graph):
            self._add(node)
        missing = [o for o in graph.outputs if self._real(o) not in self._written]
        if missing or not graph.outputs:
            raise LeanganError(f"{name} has no output that depends on its inputs.")
        self._forget()
        self._constants.clear()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float tensors in the order of the file's inputs; whole numbers are cast inside."""
        values: dict[str, Any] = {}
        for given, x in zip(self.inputs, inputs, strict=True):
            values[given.name] = x.to(torch.int64) if given.whole else x
        for step in self._steps:
            read = [self._value(values, item) for item in step.reads]
            result = run(step.node, read)
            results = result if isinstance(result, tuple) else (result,)
            for output, made in zip(step.node.outputs, results, strict=False):
                if self.trial and isinstance(made, Tensor) and made.numel() > _MOST_ELEMENTS:
                    raise LeanganError(
                        f"Operator {step.node.title} makes a tensor of {made.numel():,} elements: "
                        "say a smaller --size (example_inputs=)."
                    )
                values[output] = made
            for value in step.done:
                values.pop(value, None)
        found = [values[self._real(output)] for output in self.outputs]
        tensors = tuple(f.tensor() if isinstance(f, Host) else f for f in found)
        floats = tuple(t if t.is_floating_point() else t.to(torch.float32) for t in tensors)
        return floats if len(floats) > 1 else floats[0]

    def try_shapes(self, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The shapes of the outputs, found without computing anything.

        Raises:
            LeanganError: it does not run there, or makes tensors out of all reason; the operator
                is named.
        """
        self.trial = True
        try:
            with quiet(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
                result = self(*(torch.empty(tuple(shape)) for shape in shapes))
        finally:
            self.trial = False
        results = result if isinstance(result, tuple) else (result,)
        return [tuple(int(s) for s in r.shape) for r in results]

    def _value(self, values: Mapping[str, Any], item: Any) -> Value | None:
        if isinstance(item, _Stored):
            owner, _, leaf = item.path.rpartition(".")
            return getattr(self.get_submodule(owner), leaf)
        return values[item] if isinstance(item, str) else item

    def _real(self, name: str) -> str:
        """The value that an identity hands on."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def _add(self, node: OnnxNode) -> None:
        inputs = tuple(self._real(i) for i in node.inputs)
        node = dataclasses.replace(node, inputs=inputs)
        unknown = [i for i in inputs if i and i not in self._written and i not in self._constants]
        if node.kind == "Constant":
            self._constants[node.outputs[0]] = _constant(node)
        elif node.kind == "If" and inputs[0] in self._constants:
            self._branch(node)
        elif node.kind not in OPERATORS:
            raise LeanganError(
                f"{self.title}: operator {node.title} is not read yet. Where the generator is a "
                "part of the graph, cut it out by --from and --to (starts=, ends=)."
            )
        elif unknown:
            raise LeanganError(
                f"{self.title}: operator {node.title} reads {unknown[0]!r}, which nobody made."
            )
        elif node.kind == "Identity":
            self._aliases[node.outputs[0]] = inputs[0]
        elif node.kind in _QUANTIZERS:
            self._quantizer(node)
        elif node.kind == "PRelu" and inputs[1] in self._constants:
            node = self._slopes(node)
            self._keep(node)
        elif all(i in self._constants for i in inputs if i) and any(inputs):
            self._fold(node)
        else:
            self._keep(self._linear(node))

    def _branch(self, node: OnnxNode) -> None:
        """An If whose condition is known: only the branch that is taken remains."""
        taken = bool(self._constants[node.inputs[0]].reshape(-1)[0])
        graph = node.attributes["then_branch" if taken else "else_branch"]
        for tensor in graph.initializer:
            self._constants[tensor.name] = array_of(tensor, self.title)
        for inner in graph.node:
            self._add(read_node(inner, node.opset, self.title))
        for outer, value in zip(node.outputs, graph.output, strict=True):
            self._aliases[outer] = self._real(value.name)

    def _linear(self, node: OnnxNode) -> OnnxNode:
        """A product with a stored matrix as a linear layer, its weight (out, in)."""
        second = node.inputs[1] if len(node.inputs) > 1 else ""
        stored = self._constants.get(second)
        if stored is None or stored.ndim != 2 or stored.dtype != np.float32:
            return node
        if node.kind == "MatMul" or (node.kind == "Gemm" and not node.get("transB", 0)):
            turned = f"{second}.T" if not second.endswith(".weight") else f"{second[:-7]}.T.weight"
            self._constants[turned] = np.ascontiguousarray(stored.T)
            return dataclasses.replace(
                node,
                kind="Gemm",
                inputs=(node.inputs[0], turned, *node.inputs[2:]),
                attributes={**node.attributes, "transB": 1},
            )
        return node

    def _slopes(self, node: OnnxNode) -> OnnxNode:
        """A PReLU's slopes in a row, with the number of axes that lie behind theirs."""
        name = node.inputs[1]
        slopes = self._constants[name]
        if slopes.size != max(slopes.shape, default=1):
            return node
        behind = 0 if slopes.size == 1 else slopes.ndim - 1 - int(np.argmax(slopes.shape))
        self._constants[name] = slopes.reshape(-1)
        # Another operator may share them, and find them in a row already.
        behind = self._behind.setdefault(name, behind)
        return dataclasses.replace(node, attributes={**node.attributes, "behind": behind})

    def _quantizer(self, node: OnnxNode) -> None:
        """Scale and zero point become numbers; those of weights' channels are stored with them."""
        x, *others = node.inputs
        numbers = [self._constants.get(i) for i in others if i]
        if any(n is None for n in numbers) or not numbers:
            raise LeanganError(f"{self.title}: {node.title} has a scale that is computed.")
        step = np.asarray(numbers[0], np.float32)
        point = numbers[1] if len(numbers) > 1 else np.zeros(step.shape, np.uint8)
        assert point is not None
        codes = self._constants.get(x)
        if codes is None or node.kind == "QuantizeLinear":
            self._quantize_value(node, step, point)
            return
        axis = node.get("axis", 1)
        if codes.dtype == np.uint8 and point.dtype == np.uint8:  # as PyTorch's weights are
            codes = (codes.astype(np.int16) - 128).astype(np.int8)
            point = point.astype(np.int16) - 128
        blocks = node.get("block_size", 0)
        if codes.dtype != np.int8 or blocks or codes.ndim < 2:
            shape = [-1 if a == axis % codes.ndim else 1 for a in range(codes.ndim)]
            if blocks:
                step, point = (np.repeat(v, blocks, axis) for v in (step, point))
            elif step.size > 1:
                step, point = step.reshape(shape), point.reshape(shape)
            float_ = (codes.astype(np.float32) - point.astype(np.float32)) * step
            self._constants[node.outputs[0]] = float_.astype(np.float32)
            return
        self._constants[x] = codes
        attributes: dict[str, Any] = {"axis": axis}
        if step.size == 1:
            attributes |= {"step": float(step.reshape(-1)[0]), "point": int(point.reshape(-1)[0])}
            node = dataclasses.replace(node, inputs=(x,), attributes=attributes)
        else:
            made = (f"{x}.scale", f"{x}.zero_point")
            self._constants[made[0]] = step
            self._constants[made[1]] = np.broadcast_to(point, step.shape).astype(np.int64)
            node = dataclasses.replace(node, inputs=(x, *made), attributes=attributes)
        self._keep(node)

    def _quantize_value(self, node: OnnxNode, step: np.ndarray, point: np.ndarray) -> None:
        if step.size != 1:
            raise LeanganError(
                f"{self.title}: {node.title} rounds a value with a step for each channel, which "
                "is not read."
            )
        attributes = {
            "step": float(step.reshape(-1)[0]),
            "point": int(point.reshape(-1)[0]),
            "codes": getattr(torch, str(point.dtype)),
        }
        node = dataclasses.replace(node, inputs=node.inputs[:1], attributes=attributes)
        if node.inputs[0] in self._constants:
            self._fold(node)
        else:
            self._keep(node)

    def _fold(self, node: OnnxNode) -> None:
        """Compute what depends on constants alone."""
        values = [self._host_or_tensor(node, i) for i in node.inputs]
        with torch.no_grad():
            with quiet(), FakeTensorMode(allow_non_fake_inputs=True):
                tried = run(node, values)
            for made in tried if isinstance(tried, tuple) else (tried,):
                if isinstance(made, Tensor) and made.numel() > _MOST_ELEMENTS:
                    raise LeanganError(f"{self.title}: {node.title} is out of all reason.")
            result = run(node, values)
        for output, made in zip(
            node.outputs, result if isinstance(result, tuple) else (result,), strict=False
        ):
            self._constants[output] = _array(made)

    def _host_or_tensor(self, node: OnnxNode, name: str) -> Value | None:
        if not name:
            return None
        array = self._constants[name]
        if _is_numbers(node, array) and node.kind not in (*_WEIGHTS, *_QUANTIZERS):
            return Host.of(array)
        return torch.from_numpy(np.ascontiguousarray(array))

    def _keep(self, node: OnnxNode) -> None:
        reads = tuple(self._read(node, place) for place in range(len(node.inputs)))
        self._steps.append(_Step(node, reads, ()))
        self._written.update(o for o in node.outputs if o)

    def _read(self, node: OnnxNode, place: int) -> Any:
        name = node.inputs[place]
        if not name:
            return None
        if name not in self._constants:
            return name
        array = self._constants[name]
        roles = _WEIGHTS.get(node.kind, ())
        wanted = 0 < place <= len(roles) or (node.kind == "DequantizeLinear" and not place)
        if not wanted and _is_numbers(node, array):
            return Host.of(array)
        role = roles[place - 1] if 0 < place <= len(roles) else "weight" if wanted else "value"
        learned = array.dtype == np.float32 and role in ("weight", "bias", "value")
        path = self._paths.get((name, learned))
        if path is None:
            path = free_path(self, self._path(node, name, role))
            tensor = torch.from_numpy(np.array(array))  # of its own: the file's is read-only
            set_tensor(self, path, tensor, learned=learned)
            self._paths[name, learned] = path
        return _Stored(path)

    def _path(self, node: OnnxNode, name: str, role: str) -> str:
        """What people call the weight: by its own name where it has one, else by its operator's."""
        if _SPOKEN.fullmatch(name):
            parts = name.split(".")
        else:
            words = [w for w in re.split(r"[/.]", node.name) if w]
            if len(words) > 1 and re.fullmatch(rf"{node.kind}(_\d+)?", words[-1]):
                words.pop()
            parts = [re.sub(r"\W", "_", w) for w in words] + [role]
        parts = [f"{p}_" if hasattr(nn.Module, p) else p for p in parts]
        taken: nn.Module = self
        for part in parts[:-1]:
            inner = getattr(taken, part, None)
            if inner is None:
                break
            if not isinstance(inner, nn.Module):  # a weight bears the name of a folder
                return "_".join(parts)
            taken = inner
        return ".".join(parts)

    def _forget(self) -> None:
        """Note after which step a value is not needed any more."""
        kept = {self._real(o) for o in self.outputs}
        steps = []
        for step in reversed(self._steps):
            read = {r for r in step.reads if isinstance(r, str)} | set(step.node.outputs)
            steps.append(dataclasses.replace(step, done=tuple(read - kept)))
            kept |= read
        self._steps = steps[::-1]


def _needed(graph: OnnxGraph) -> list[OnnxNode]:
    """Those that the outputs depend on: checks of sizes lead nowhere."""
    wanted, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            for branch in node.attributes.values():
                if isinstance(branch, GraphProto):
                    wanted.update(value for inner in branch.node for value in reads(inner))
            kept.append(node)
    return kept[::-1]


def _is_numbers(node: OnnxNode, array: np.ndarray) -> bool:
    """Whether a constant is used as known numbers by this operator, and not as a tensor."""
    small = array.size <= 1 or array.dtype.kind in "iub" or node.kind in _LISTS
    return small and array.size <= MOST


def _constant(node: OnnxNode) -> np.ndarray:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            array = np.asarray(node.attributes[name])
            return array.astype(np.float32) if array.dtype.kind == "f" else array
    raise LeanganError(f"Operator {node.title} holds a constant of a kind that is not read.")


def _array(made: Any) -> np.ndarray:
    """A folded value as an array again."""
    if isinstance(made, Tensor):
        return made.detach().numpy()
    kind = np.float32 if made.floating else bool if _all_bools(made) else np.int64
    return np.array(made.list(), dtype=kind).reshape(made.values.shape)


def _all_bools(made: Host) -> bool:
    return bool(made.values.size) and all(isinstance(v, bool) for v in made.list())
