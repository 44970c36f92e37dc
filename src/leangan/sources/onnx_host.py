"""Shape arithmetic of ONNX graphs: whole numbers that sizes are computed with.

Exporters write `x.view(x.size(0), -1)` as operators on small tensors (Shape, Gather, Concat,
Reshape). Here these hold Python numbers, or PyTorch's symbolic ones, so that free sizes stay free
and nothing of it is left in the graph.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leangan.errors import LeanganError

MOST = 2**16
"""More numbers than any shape has."""


@dataclass(frozen=True)
class Host:
    """A small tensor of numbers that are known, or are sizes."""

    values: np.ndarray
    """Of objects: int, SymInt, float, bool."""
    floating: bool = False

    @classmethod
    def of(cls, array: Any, *, floating: bool | None = None) -> Host:
        """From an array or a (nested) list."""
        source = np.asarray(array) if not isinstance(array, np.ndarray) else array
        if floating is None:
            floating = source.dtype.kind == "f"
        values = np.empty(source.shape, object)
        values[...] = source.tolist() if source.dtype != object else source
        return cls(values, floating)

    def list(self) -> list[Any]:
        """All numbers in a row."""
        return list(self.values.reshape(-1))

    def item(self) -> Any:
        """The only number."""
        if self.values.size != 1:
            raise LeanganError(f"one number is needed where there are {self.values.size}")
        return self.values.reshape(-1)[0]

    def tensor(self) -> Tensor:
        """As a tensor; float32, int64 or bool."""
        flat = self.list()
        if any(isinstance(v, torch.SymInt) for v in flat):
            return torch.cat([torch.full((1,), v) for v in flat]).reshape(self.values.shape)
        if self.floating:
            return torch.tensor(flat, dtype=torch.float32).reshape(self.values.shape)
        kind = torch.bool if flat and all(isinstance(v, bool) for v in flat) else torch.int64
        return torch.tensor(flat, dtype=kind).reshape(self.values.shape)


Value = Tensor | Host


def sizes_of(x: Tensor) -> Host:
    """The shape of a tensor."""
    values = np.empty(x.dim(), object)
    for axis, size in enumerate(x.shape):
        values[axis] = size
    return Host(values)


def rank_of(x: Value) -> int:
    """The number of axes."""
    return x.dim() if isinstance(x, Tensor) else x.values.ndim


def tensor_of(x: Value) -> Tensor:
    """As a tensor, also what is known only as numbers."""
    return x.tensor() if isinstance(x, Host) else x


def objects(values: Any) -> Any:
    """An array that holds anything: of a list one axis, of anything else none."""
    several = isinstance(values, list)
    made = np.empty((len(values),) if several else (), object)
    for i, value in enumerate(values) if several else [((), values)]:
        made[i] = value
    return made


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are known to be equal, without making a rule of it."""
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        return str(a) == str(b)
    return bool(a == b)


def ratio(a: Any, b: Any) -> int | None:
    """`a / b` where that is the same whole number for every size; None otherwise."""
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt):
        quotient = (a.node.expr / b.node.expr).cancel()
        return int(quotient) if quotient.is_Integer else None
    if isinstance(a, int) and isinstance(b, int) and b and a % b == 0:
        return a // b
    return None


def _each(function: Callable[..., Any], *arguments: Host, floating: bool) -> Host:
    if math.prod(np.broadcast_shapes(*(a.values.shape for a in arguments))) > MOST:
        raise LeanganError("a shape is computed from too many numbers")
    results = np.frompyfunc(function, len(arguments), 1)(*(a.values for a in arguments))
    values = np.empty(np.shape(results), object)
    values[...] = results
    return Host(values, floating)


def _times(a: Any, b: Any) -> Any:
    # A size times 2.0 is a size still.
    if isinstance(a, torch.SymInt) and isinstance(b, float) and b.is_integer():
        b = int(b)
    elif isinstance(b, torch.SymInt) and isinstance(a, float) and a.is_integer():
        a = int(a)
    return a * b


def _divide(a: Any, b: Any) -> Any:
    """Of whole numbers, towards zero."""
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        return a // b
    if b == 0:
        raise LeanganError("division by zero in a shape")
    return int(abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


def _quotient(a: Any, b: Any) -> Any:
    whole = ratio(a, b) if not isinstance(a, float) and not isinstance(b, float) else None
    return float(whole) if whole is not None else a / b


def _rounded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        if isinstance(x, float):
            return float(function(x))
        return torch.sym_int(x) if isinstance(x, torch.SymFloat) else x

    return run


def whole(x: Host) -> Host:
    """Towards zero, as a cast does."""

    def run(v: Any) -> Any:
        return v if isinstance(v, torch.SymInt) else torch.sym_int(v)

    return _each(run, x, floating=False)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": _times,
    "Pow": lambda a, b: a**b if abs(b) <= 64 else _refuse(),
    "Min": lambda a, b: torch.sym_min(a, b),
    "Max": lambda a, b: torch.sym_max(a, b),
    "Mod": lambda a, b: a % b,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": lambda a, b: a == b,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": operator.neg,
    "Abs": abs,
    "Floor": _rounded(math.floor),
    "Ceil": _rounded(math.ceil),
    "Round": _rounded(round),
    "Sqrt": lambda a: float(a) ** 0.5,
}


def _refuse() -> Any:
    raise LeanganError("a power in a shape is out of reason")


def compute(kind: str, arguments: Sequence[Host]) -> Host | None:
    """Run an elementwise operator on known numbers; None where it is none of these.

    Raises:
        LeanganError: it has no result.
    """
    floating = any(a.floating for a in arguments)
    if kind == "Div" and len(arguments) == 2:
        return _each(_quotient if floating else _divide, *arguments, floating=floating)
    if kind in _BINARY:
        total = arguments[0]
        for argument in arguments[1:]:
            total = _each(_BINARY[kind], total, argument, floating=floating)
        return total
    if kind in _COMPARE and len(arguments) == 2:
        return _each(_COMPARE[kind], *arguments, floating=False)
    if kind in _UNARY and len(arguments) == 1:
        return _each(_UNARY[kind], *arguments, floating=floating)
    if kind == "Not" and len(arguments) == 1:
        return _each(lambda a: not a, *arguments, floating=False)
    if kind == "Where" and len(arguments) == 3:
        chosen = _each(lambda c, a, b: a if c else b, *arguments, floating=False)
        return Host(chosen.values, arguments[1].floating or arguments[2].floating)
    return None
