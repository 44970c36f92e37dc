"""Fourier transforms of a graph, read in one form and written as products with matrices."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from leangan.graph.operators import arguments, aten
from leangan.graph.rewrite import set_tensor

Size = int | Node
"""A length that is known, or the node that computes it."""
Parts = tuple[Node, Node | None]
"""The real and the imaginary part of a tensor; None where that is 0 throughout."""

_NAMED = {
    getattr(aten, f"fft_{inverse}{half}fft{axes}"): (inverse == "i", half == "r")
    for inverse in ("", "i")
    for half in ("", "r")
    for axes in ("", "2", "n")
}
"""By operator: whether it is inverse, and whether its real side has half a spectrum."""
_BARE = (aten._fft_r2c, aten._fft_c2r, aten._fft_c2c)
"""What those become when an export takes them apart."""
_EXPONENTS = {None: (0.0, 1.0), "backward": (0.0, 1.0), "ortho": (0.5, 0.5), "forward": (1.0, 0.0)}
"""By norm: the power of 1 / length that a transform and its inverse are multiplied by."""


@dataclass(frozen=True)
class Transform:
    """A transform along one axis after the other."""

    x: Node
    axes: tuple[int, ...]
    """In the order of the call; half a spectrum lies along the last."""
    lengths: tuple[Size | None, ...]
    """Of the transform along each axis; None for that of `x`."""
    inverse: bool
    half: bool
    """Whether it goes from, or to, real numbers, whose spectrum is stored up to the middle."""
    exponent: float
    """The power of 1 / length that the result is multiplied by."""


def read_transform(node: Node) -> Transform | None:
    """`node` as a Transform, None when it is anything else."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in _NAMED and packet not in _BARE:
        return None
    named = arguments(node)
    x = named["self"]
    rank = x.meta["val"].dim()
    axes, lengths = named["dim"], named.get("s")
    if packet in _BARE:
        inverse = not named.get("forward", packet is aten._fft_r2c)
        half = named.get("onesided", packet is aten._fft_c2r)
        exponent = named["normalization"] / 2
        if "last_dim_size" in named:
            lengths = [None] * (len(axes) - 1) + [named["last_dim_size"]]
    else:
        inverse, half = _NAMED[packet]
        exponent = _EXPONENTS[named["norm"]][inverse]
        if "n" in named:
            axes, lengths = [axes], [named["n"]]
        elif axes is None:
            axes = list(range(rank - len(lengths) if lengths else 0, rank))
    return Transform(
        x,
        tuple(axis % rank for axis in axes),
        tuple(None if n == -1 else n for n in lengths or [None] * len(axes)),
        inverse,
        half,
        exponent,
    )


class Products:
    """Writes transforms as products with cosines and sines.

    Those of a known length are stored; where it is free the graph computes them itself.
    """

    def __init__(self, module: GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self._made: dict[tuple[Any, ...], tuple[Node, Node]] = {}

    def write(self, transform: Transform, parts: Parts, before: Node) -> Parts:
        """The parts of the result, in front of `before`."""
        order = list(zip(transform.axes, transform.lengths, strict=True))
        if not transform.inverse:
            order.reverse()  # real numbers are halved before the other axes are worked on
        with self.graph.inserting_before(before):
            for axis, length in order:
                parts = self._along(transform, parts, axis, length)
        return parts

    def _along(self, transform: Transform, parts: Parts, axis: int, length: Size | None) -> Parts:
        halved = transform.half and axis == transform.axes[-1]
        to_real = halved and transform.inverse
        shape = transform.x.meta["val"].shape
        rows = self._size(parts[0], axis, shape[axis])
        if length is None:
            length = self._number(operator.mul, self._number(operator.sub, rows, 1), 2)
            length = length if to_real else rows
        bins = self._number(operator.add, self._number(operator.floordiv, length, 2), 1)
        most = bins if to_real else length
        if not statically_known_true(_value(rows) == _value(most)):
            # What is longer than the transform is cut; what is shorter meets fewer rows.
            real, imaginary = parts
            real = self._call(aten.slice.Tensor, real, axis, 0, most)
            if imaginary is not None:
                imaginary = self._call(aten.slice.Tensor, imaginary, axis, 0, most)
            parts = real, imaginary
            rows = self._size(parts[0], axis, torch.sym_min(_value(rows), _value(most)))
        columns = bins if halved and not to_real else length
        sizes = tuple(str(_value(n)) for n in (rows, columns, length))
        key = (sizes, to_real, transform.inverse, transform.exponent)
        if key not in self._made:
            self._made[key] = self._matrices(rows, columns, length, transform, to_real)
        cos, sin = self._made[key]
        last = axis == len(shape) - 1

        def to_last(part: Node) -> Node:
            return part if last else self._call(aten.transpose.int, part, axis, -1)

        moved = to_last(parts[0]), parts[1] and to_last(parts[1])

        def combined(join: Any, of_real: Node, of_imaginary: Node) -> Node:
            whole = self._call(aten.matmul.default, moved[0], of_real)
            if moved[1] is not None:
                product = self._call(aten.matmul.default, moved[1], of_imaginary)
                whole = self._call(join, whole, product)
            return to_last(whole)

        # (re + i im) (cos + i sin)
        real = combined(aten.sub.Tensor, cos, sin)
        return real, None if to_real else combined(aten.add.Tensor, sin, cos)

    def _matrices(
        self, rows: Size, columns: Size, length: Size, transform: Transform, to_real: bool
    ) -> tuple[Node, Node]:
        """Cosines and sines, (rows, columns), times the norm of the transform."""
        known = not any(isinstance(size, Node) for size in (rows, columns, length))
        call: Callable[..., Any] = _eager if known else self._call
        period = call(aten.full.default, [1], length, dtype=torch.int64)
        row = call(aten.unsqueeze.default, call(aten.arange.default, rows, dtype=torch.int64), 1)
        column = call(aten.arange.default, columns, dtype=torch.int64)
        # In whole numbers first: large angles would lose their digits.
        turns = call(aten.remainder.Tensor, call(aten.mul.Tensor, row, column), period)
        turns = call(aten._to_copy.default, turns, dtype=torch.float32)
        period_ = call(aten._to_copy.default, period, dtype=torch.float32)
        circle = 2 * math.pi if transform.inverse else -2 * math.pi
        angle = call(aten.mul.Tensor, call(aten.div.Tensor, turns, period_), circle)
        scale = call(aten.pow.Tensor_Scalar, period_, -transform.exponent)
        if to_real:
            # The bins between the first and the middle stand for their mirror images too.
            ends = call(aten.eq.Scalar, row, 0)
            middle = call(aten.eq.Tensor, call(aten.mul.Tensor, row, 2), period)
            ends = call(aten.logical_or.default, ends, middle)
            ends = call(aten._to_copy.default, ends, dtype=torch.float32)
            scale = call(aten.mul.Tensor, call(aten.rsub.Scalar, ends, 2), scale)
        cos, sin = (
            call(aten.mul.Tensor, call(f.default, angle), scale) for f in (aten.cos, aten.sin)
        )
        return (self._stored("cos", cos), self._stored("sin", sin)) if known else (cos, sin)

    def _stored(self, name: str, matrix: Tensor) -> Node:
        path = f"fourier.{name}{len(self._made)}"
        set_tensor(self.module, path, matrix, learned=False)
        return self.graph.get_attr(path)

    def _size(self, part: Node, axis: int, value: Any) -> Size:
        if isinstance(value, int):
            return value
        node = self._call(aten.sym_size.int, part, axis)
        node.meta["val"] = value
        return node

    def _number(self, function: Any, a: Size, b: int) -> Size:
        if isinstance(a, int):
            return int(function(a, b))
        node = self._call(function, a, b)
        node.meta["val"] = function(_value(a), b)
        return node

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)


def _eager(target: Any, *args: Any, **kwargs: Any) -> Any:
    return target(*args, **kwargs)


def _value(size: Size) -> Any:
    return size.meta["val"] if isinstance(size, Node) else size
