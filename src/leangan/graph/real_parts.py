"""Complex numbers as pairs of real ones, for runtimes that have neither them nor an FFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.fourier import Parts, Products, read_transform
from leangan.graph.operators import aten, is_call
from leangan.graph.rewrite import free_path, new_tensor_node, rewrite, tensor_of


def complex_as_real(generator: Generator) -> Generator:
    """The same numbers without a complex tensor: Fourier transforms become matrix products.

    x -> rfftn -> view_as_real -> y   becomes   x -> matmul(cosines), matmul(sines) -> y

    Returns:
        `generator` itself when it has no complex tensor.

    Raises:
        LeanganError: an operator on complex numbers has no form in real ones here.
    """
    if not any(map(_is_complex, generator.program.graph.nodes)):
        return generator  # at no cost: every ONNX file is written through here
    return rewrite(generator, "complex-as-real", {"complex tensors": _edit})


def _edit(module: GraphModule) -> int:
    pairs = _Pairs(module)
    for node in list(module.graph.nodes):
        if _is_complex(node) or any(_is_complex(i) for i in node.all_input_nodes):
            with module.graph.inserting_before(node):
                pairs.visit(node)
    return len(pairs.parts)


_ALIKE = frozenset(
    {
        aten.alias, aten.cat, aten.clone, aten.expand, aten.flatten, aten.flip, aten.index_select,
        aten.mean, aten.narrow, aten.neg, aten.permute, aten.repeat, aten.reshape, aten.roll,
        aten.select, aten.slice, aten.squeeze, aten.stack, aten.sum, aten.t, aten.transpose,
        aten.unsqueeze, aten.view, aten._unsafe_view,
    }
)  # fmt: skip
"""What does the same to both parts."""


Part = Any
"""A node, a number, or None for 0."""


class _Pairs:
    """The real and imaginary part of each complex node, made while walking the graph once."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.parts: dict[Node, tuple[Part, Part]] = {}
        self.products = Products(module)

    def visit(self, node: Node) -> None:
        """Make the parts of `node`, or the real node that replaces it."""
        rule = _RULES.get(getattr(node.target, "overloadpacket", None))
        transform = read_transform(node) if node.op == "call_function" else None
        real: Part = None
        imaginary: Part = None
        if node.op == "get_attr":
            real, imaginary = self._stored(node)
        elif transform is not None:
            real, imaginary = self.products.write(transform, self._whole(transform.x), node)
        elif is_call(node, *_ALIKE):
            real, imaginary = self._alike(node)
        elif rule is not None and not node.kwargs:
            real, imaginary = rule(self, *node.args)
        if real is None and imaginary is None:
            raise LeanganError(
                f"{node.name} ({node.target}) has to do with complex numbers, and leangan has no "
                "form of it in real ones. Choose the runtime torch instead."
            )
        if _is_complex(node):
            self.parts[node] = real, imaginary
        else:
            node.replace_all_uses_with(real)

    def _of(self, value: Any) -> tuple[Part, Part]:
        """The parts of a node or a number."""
        if isinstance(value, Node):
            return self.parts.get(value, (value, None))
        number = complex(value)
        return number.real or None, number.imag or None

    def _whole(self, node: Node) -> Parts:
        """As `_of`, with a real part that is a node; so is the other of what is complex."""
        real, imaginary = self._of(node)
        if real is None:
            real = self._call(aten.zeros_like, imaginary)
        if imaginary is None and _is_complex(node):
            imaginary = self._call(aten.zeros_like, real)
        return real, imaginary

    def _stored(self, node: Node) -> Parts:
        tensor = tensor_of(self.module, node)
        assert tensor is not None
        made = []
        for name, part in (("real", tensor.real), ("imaginary", tensor.imag)):
            path = free_path(self.module, f"{node.target}_{name}")
            learned = isinstance(tensor, torch.nn.Parameter)
            made.append(new_tensor_node(self.module, node, path, part, learned=learned))
        return made[0], made[1]

    def _alike(self, node: Node) -> Parts:
        """Both parts go through the operator."""
        wholes = {i: self._whole(i) for i in node.all_input_nodes}
        others = {
            i: imaginary or self._call(aten.zeros_like, real)
            if isinstance(i.meta.get("val"), Tensor)
            else i
            for i, (real, imaginary) in wholes.items()
        }
        real = self.graph.node_copy(node, lambda n: wholes[n][0])
        return real, self.graph.node_copy(node, others.__getitem__)

    def _call(self, packet: Any, *args: Any) -> Node:
        overload = "Tensor" if "Tensor" in packet.overloads() else "default"
        return self.graph.call_function(getattr(packet, overload), args)

    def _times(self, a: Part, b: Part) -> Part:
        if a is None or b is None:
            return None
        if not isinstance(a, Node):
            a, b = b, a
        return self._call(aten.mul, a, b) if isinstance(a, Node) else a * b

    def _plus(self, a: Part, b: Part) -> Part:
        if a is None or b is None:
            return b if a is None else a
        if not isinstance(a, Node):
            a, b = b, a
        return self._call(aten.add, a, b) if isinstance(a, Node) else a + b

    # One rule per operator: its arguments to the parts of its result.

    def complex(self, real: Node, imaginary: Node) -> tuple[Part, Part]:
        return real, imaginary

    def polar(self, size: Node, angle: Node) -> tuple[Part, Part]:
        cos, sin = self._call(aten.cos, angle), self._call(aten.sin, angle)
        return self._times(size, cos), self._times(size, sin)

    def view_as_real(self, x: Node) -> tuple[Part, Part]:
        return self._call(aten.stack, [*self._whole(x)], -1), None

    def real(self, x: Node) -> tuple[Part, Part]:
        return self._whole(x)[0], None

    def imag(self, x: Node) -> tuple[Part, Part]:
        return self._whole(x)[1], None

    def abs(self, x: Node) -> tuple[Part, Part]:
        real, imaginary = self._whole(x)
        squares = self._plus(self._times(real, real), self._times(imaginary, imaginary))
        return self._call(aten.sqrt, squares), None

    def angle(self, x: Node) -> tuple[Part, Part]:
        real, imaginary = self._whole(x)
        return self._call(aten.atan2, imaginary, real), None

    def conj(self, x: Node) -> tuple[Part, Part]:
        real, imaginary = self._of(x)
        return real, self._times(imaginary, -1)

    def exp(self, x: Node) -> tuple[Part, Part]:
        real, angle = self._of(x)
        cos, sin = self._call(aten.cos, angle), self._call(aten.sin, angle)
        if real is None:
            return cos, sin
        size = self._call(aten.exp, real)
        return self._times(size, cos), self._times(size, sin)

    def add(self, a: Any, b: Any) -> tuple[Part, Part]:
        (real, imaginary), (other, another) = self._of(a), self._of(b)
        return self._plus(real, other), self._plus(imaginary, another)

    def sub(self, a: Any, b: Any) -> tuple[Part, Part]:
        (real, imaginary), (other, another) = self._of(a), self._of(b)
        other, another = self._times(other, -1), self._times(another, -1)
        return self._plus(real, other), self._plus(imaginary, another)

    def mul(self, a: Any, b: Any) -> tuple[Part, Part]:
        (real, imaginary), (other, another) = self._of(a), self._of(b)
        minus = self._times(self._times(imaginary, another), -1)
        return (
            self._plus(self._times(real, other), minus),
            self._plus(self._times(real, another), self._times(imaginary, other)),
        )

    def div(self, a: Any, b: Any) -> tuple[Part, Part]:
        if isinstance(b, Node) and not _is_complex(b):
            real, imaginary = (part and self._call(aten.div, part, b) for part in self._of(a))
            return real, imaginary
        return (None, None) if isinstance(b, Node) else self.mul(a, 1 / complex(b))


_RULES: dict[Any, Callable[..., tuple[Part, Part]]] = {
    aten.complex: _Pairs.complex,
    aten.polar: _Pairs.polar,
    aten.view_as_real: _Pairs.view_as_real,
    aten.real: _Pairs.real,
    aten.imag: _Pairs.imag,
    aten.abs: _Pairs.abs,
    aten.angle: _Pairs.angle,
    aten.conj: _Pairs.conj,
    aten._conj: _Pairs.conj,
    aten.conj_physical: _Pairs.conj,
    aten.exp: _Pairs.exp,
    aten.add: _Pairs.add,
    aten.sub: _Pairs.sub,
    aten.mul: _Pairs.mul,
    aten.div: _Pairs.div,
}


def _is_complex(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()
