"""Look at the data before anything is calibrated on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leangan.errors import LeanganError
from leangan.generator import Generator, Port
from leangan.tasks.base import Sample

SLACK = 1e-3
"""Share of the value range by which a value may be outside of it: rounding of a conversion."""


def check_inputs(generator: Generator, samples: Sequence[Sample]) -> None:
    """Refuse samples that the generator cannot take, before any time is spent on them.

    Args:
        generator: in float, as it was loaded.
        samples: what it is to be calibrated or judged on.

    Raises:
        LeanganError: names the file and the input: another number of inputs, a wrong size, NaN
            or Inf, values outside of the signature's range.
    """
    for sample in samples:
        ports = generator.signature.inputs
        if len(sample.inputs) != len(ports):
            raise LeanganError(
                f"{sample.name} gives {len(sample.inputs)} inputs, {generator.name} takes "
                f"{len(ports)}."
            )
        for port, tensor in zip(ports, sample.inputs, strict=True):
            _check_shape(sample.name, port, tensor)
            _check_values(sample.name, port, tensor)


def _check_shape(name: str, port: Port, tensor: Tensor) -> None:
    wrong = tensor.ndim != len(port.layout) or any(
        (fixed is not None and size != fixed) or size % port.multiple_of(axis) or not size
        for axis, (size, fixed) in enumerate(zip(tensor.shape, port.shape, strict=True))
    )
    if wrong:
        raise LeanganError(
            f"{name} has shape {tuple(tensor.shape)}, which input {port.name!r} cannot take: "
            f"it wants {describe(port)}."
        )


def _check_values(name: str, port: Port, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise LeanganError(f"{name} holds NaN or Inf (input {port.name!r}); mend or remove it.")
    if port.range is None:
        return
    low, high = port.range
    least, most = float(tensor.min()), float(tensor.max())
    slack = SLACK * (high - low)
    if least < low - slack or most > high + slack:
        raise LeanganError(
            f"{name} holds values from {least:g} to {most:g}, outside of the range {low:g} to "
            f"{high:g} of input {port.name!r}; scale the data, or say the true range with "
            f"--range {port.name}={low:g},{high:g}."
        )


def describe(port: Port) -> str:
    """The shape a port takes, for people: "N x 3 x H (a multiple of 4) x W"."""
    sizes = []
    for axis, (letter, fixed) in enumerate(zip(port.layout, port.shape, strict=True)):
        multiple = port.multiple_of(axis)
        free = f"{letter} (a multiple of {multiple})" if multiple > 1 else letter
        sizes.append(str(fixed) if fixed is not None else free)
    return " x ".join(sizes)
