"""Fixed-point numbers, and a network of them that numpy computes bit by bit as the FPGA does.

A number is a whole number (its code) times a step, a power of two. Where a result is stored it is
rounded to the nearest step, halves up, and clipped to the format (AP_RND and AP_SAT of ap_fixed);
sums are held in accumulators that are wide enough for the worst case, so that nothing is lost
before that. Maps are channels last, [batch, H, W, C], vectors [batch, features].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Format:
    """What ap_fixed<bits, bits - fraction> holds; ap_ufixed where it has no sign."""

    bits: int
    fraction: int
    """Bits behind the point: the step is 2 ** -fraction. May be negative, or larger than `bits`."""
    signed: bool = True

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def exact_type(self) -> str:
        """The C++ type of what never needs rounding or clipping."""
        return f"ap_{'' if self.signed else 'u'}fixed<{self.bits},{self.bits - self.fraction}>"

    @property
    def type(self) -> str:
        """The C++ type that rounds and clips what is stored in it."""
        return f"{self.exact_type[:-1]},AP_RND,AP_SAT>"

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The nearest codes (int64) of real numbers, halves up, clipped."""
        near = np.floor(np.ldexp(np.asarray(values, np.float64), self.fraction) + 0.5)
        return np.clip(near, self.low, self.high).astype(np.int64)

    def rounded(self, codes: np.ndarray, fraction: int) -> np.ndarray:
        """Codes with so many bits behind the point as codes of this format."""
        drop = fraction - self.fraction
        whole = (codes + (1 << drop >> 1)) >> drop if drop > 0 else codes << -drop
        return np.clip(whole, self.low, self.high)

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The real numbers (float64) that codes stand for."""
        return np.ldexp(codes.astype(np.float64), -self.fraction)


def covering(low: float, high: float, bits: int) -> Format:
    """The format of so many bits with the smallest step that a range can be rounded to."""
    signed = low < 0
    most = max(high, -low)
    form = Format(bits, bits - signed + 1 - math.frexp(most)[1], signed)
    while (
        math.ldexp(high, form.fraction) >= form.high + 0.5
        or math.ldexp(low, form.fraction) < form.low - 0.5
    ):
        form = Format(bits, form.fraction - 1, signed)
    return form


def holding(low: int, high: int, fraction: int) -> Format:
    """The narrowest format that holds every code from `low` to `high`."""
    signed = low < 0
    return Format(max(high.bit_length(), (-low - 1).bit_length(), 1) + signed, fraction, signed)


@dataclass(frozen=True)
class Stored:
    """Numbers that the design holds: weights, biases, scales."""

    codes: np.ndarray
    format: Format

    @classmethod
    def of(cls, values: np.ndarray, bits: int) -> Stored:
        """Real numbers rounded to the format of so many bits that covers them."""
        form = covering(float(values.min()), float(values.max()), bits)
        return cls(form.codes(values), form)

    @classmethod
    def exactly(cls, codes: np.ndarray, fraction: int) -> Stored:
        """Codes in the narrowest format that holds them all."""
        return cls(codes, holding(int(codes.min()), int(codes.max()), fraction))

    @property
    def values(self) -> np.ndarray:
        """As real numbers."""
        return self.format.values(self.codes)


@dataclass(frozen=True)
class Value:
    """The codes of a batch, and how many of their bits lie behind the point."""

    codes: np.ndarray
    fraction: int


@dataclass(frozen=True)
class Operation:
    """One step of the network."""

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    """Of the result, without the batch."""
    format: Format
    """Of the result."""

    def exact(self, *inputs: Value) -> Value:
        """The result before it is rounded and clipped to `format`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Input(Operation):
    """What comes in, as real numbers that are rounded."""


@dataclass(frozen=True)
class Weighted(Operation):
    """A linear layer (weight [in, out]) or a convolution ([rows, columns, in, out])."""

    weight: Stored
    bias: Stored
    """With as many bits behind the point as the products."""
    accumulator: Format
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    """Zeros on both sides of the rows and of the columns."""

    @property
    def multiplied(self) -> tuple[int, int]:
        """Inputs and outputs of the matrix that one position is multiplied with."""
        *taps, outputs = self.weight.codes.shape
        return math.prod(taps), outputs

    def exact(self, *inputs: Value) -> Value:
        """Sums of products."""
        (x,) = inputs
        # Whole numbers below 2 ** 53, which accumulators are, are exact in float64, and fast.
        codes, weight = (c.astype(np.float64) for c in (x.codes, self.weight.codes))
        sums: Any = 0
        if weight.ndim == 2:
            sums = codes @ weight
        else:
            codes = np.pad(codes, [(0, 0), *((p, p) for p in self.padding), (0, 0)])
            height, width, _ = self.shape
            down, right = self.stride
            for i, j in np.ndindex(weight.shape[:2]):
                rows = codes[:, i : i + down * height : down]
                sums = sums + rows[:, :, j : j + right * width : right] @ weight[i, j]
        fraction = x.fraction + self.weight.format.fraction
        return Value(sums.astype(np.int64) + self.bias.codes, fraction)


@dataclass(frozen=True)
class Scaled(Operation):
    """Each channel times a number, plus a number."""

    scale: Stored
    bias: Stored
    """With as many bits behind the point as the products."""

    def exact(self, *inputs: Value) -> Value:
        """Products and the bias."""
        (x,) = inputs
        products = x.codes * self.scale.codes + self.bias.codes
        return Value(products, x.fraction + self.scale.format.fraction)


@dataclass(frozen=True)
class Rectified(Operation):
    """ReLU, or LeakyReLU where there is a slope."""

    slope: Stored | None

    def exact(self, *inputs: Value) -> Value:
        """What is above zero, and the slope times what is not."""
        (x,) = inputs
        if self.slope is None:
            return Value(np.maximum(x.codes, 0), x.fraction)
        more = self.slope.format.fraction
        below = x.codes * self.slope.codes.item()
        return Value(np.where(x.codes > 0, x.codes << more, below), x.fraction + more)


@dataclass(frozen=True)
class Cast(Operation):
    """The same numbers in another format."""

    def exact(self, *inputs: Value) -> Value:
        """What came in."""
        return inputs[0]


@dataclass(frozen=True)
class Table(Operation):
    """Any function of one number, looked up by the number's bits."""

    table: Stored
    """By the bits of the input, read as a number without a sign; its format is the result's."""

    def exact(self, *inputs: Value) -> Value:
        """What stands in the table."""
        codes = self.table.codes[inputs[0].codes % len(self.table.codes)]
        return Value(codes, self.table.format.fraction)


@dataclass(frozen=True)
class Sum(Operation):
    """The sum of two results of one shape."""

    def exact(self, *inputs: Value) -> Value:
        """Added at the smaller step."""
        fraction = max(x.fraction for x in inputs)
        a, b = (x.codes << (fraction - x.fraction) for x in inputs)
        return Value(a + b, fraction)


@dataclass(frozen=True)
class Reshaped(Operation):
    """The same numbers in the same order."""

    def exact(self, *inputs: Value) -> Value:
        """In the new shape."""
        (x,) = inputs
        return Value(x.codes.reshape(-1, *self.shape), x.fraction)


@dataclass(frozen=True)
class Transposed(Operation):
    """Axes in another order."""

    order: tuple[int, ...]

    def exact(self, *inputs: Value) -> Value:
        """In the new order."""
        (x,) = inputs
        return Value(x.codes.transpose(0, *(1 + axis for axis in self.order)), x.fraction)


@dataclass(frozen=True)
class Repeated(Operation):
    """Nearest upsampling by whole factors."""

    factors: tuple[int, int]

    def exact(self, *inputs: Value) -> Value:
        """Rows and columns repeated."""
        (x,) = inputs
        rows, columns = self.factors
        return Value(x.codes.repeat(rows, 1).repeat(columns, 2), x.fraction)


@dataclass(frozen=True)
class Framed(Operation):
    """Zeros around a map, or what lies at its edges cut off where a side is negative."""

    sides: tuple[int, int, int, int]
    """Top, bottom, left, right; not of both signs."""

    def exact(self, *inputs: Value) -> Value:
        """Padded or cropped."""
        (x,) = inputs
        top, bottom, left, right = self.sides
        if min(self.sides) < 0:
            _, height, width, _ = x.codes.shape
            return Value(x.codes[:, -top : height + bottom, -left : width + right], x.fraction)
        return Value(np.pad(x.codes, ((0, 0), (top, bottom), (left, right), (0, 0))), x.fraction)


def compute(network: Sequence[Operation], x: np.ndarray) -> np.ndarray:
    """Run a network on real numbers, exactly as the design does.

    Args:
        network: in the order of computation; the first is the input, the last the output.
        x: [batch, *shape of the input].

    Returns:
        The numbers (float64) that come out, [batch, *shape of the output].
    """
    first, *others = network
    values = {first.name: Value(first.format.codes(x), first.format.fraction)}
    for operation in others:
        result = operation.exact(*(values[name] for name in operation.inputs))
        codes = operation.format.rounded(result.codes, result.fraction)
        values[operation.name] = Value(codes, operation.format.fraction)
    last = network[-1]
    return last.format.values(values[last.name].codes)
