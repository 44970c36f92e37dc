"""LEAKY_RELU and PRELU where LiteRT's converter writes four to seven operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from leangan.runtimes.litert_file import add_constant, constant
from leangan.runtimes.litert_graph import File, operator


def fuse_activations(model: Any) -> int:
    """Write RELU(x) - a * RELU(-x) as LEAKY_RELU, or as PRELU where `a` differs by channel.

    Args:
        model: of `litert_file.unpack`; changed in place.

    Returns:
        The number of activations.
    """
    file, count = File(model), 0
    for last in list(file.graph.operators):
        if file.kind(last) != "SUB" or last.builtinOptions.fusedActivationFunction:
            continue
        up, down = (file.maker(int(i)) for i in last.inputs)
        if file.kind(up) != "RELU" or file.kind(down) != "MUL":
            continue
        below, slope = _with_constant(file, down)
        flip = file.maker(below)
        if slope is None or file.kind(flip) != "MUL":
            continue
        x, minus = _with_constant(file, flip)
        rectified = flip.builtinOptions.fusedActivationFunction == 1  # RELU
        if x != int(up.inputs[0]) or minus is None or not np.all(minus == -1) or not rectified:
            continue
        if down.builtinOptions.fusedActivationFunction or slope.size not in (1, file.shape(x)[-1]):
            continue
        out = int(last.outputs[0])
        if slope.size == 1:
            alpha = float(slope.item())
            new = operator(file, "LEAKY_RELU", 1, [x], out, "LeakyReluOptions", alpha=alpha)
        elif slope.shape[-1] == slope.size:
            laid = slope.reshape(*[1] * (len(file.shape(x)) - 2), -1)
            stored = add_constant(model, f"slopes_{count}", laid)
            new = operator(file, "PRELU", 1, [x, stored], out)
        else:
            continue
        file.replace((up, flip, down, last), (new,))
        count += 1
    return count


def _with_constant(file: File, op: Any) -> tuple[int, np.ndarray | None]:
    """The computed input of an operator of two, and its float constant."""
    first, second = (int(i) for i in op.inputs)
    value = constant(file.model, second)
    return (first, value) if value is not None else (second, constant(file.model, first))
