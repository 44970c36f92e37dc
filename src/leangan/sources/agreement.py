"""Whether a graph computes what its module does, and at which sizes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leangan.errors import LeanganError
from leangan.generator import Port, random_inputs
from leangan.graph.capture import quiet
from leangan.graph.difference import share_of_range
from leangan.runner import runner
from leangan.sources.probe import SPATIAL, Sizes

TOLERANCE = 1e-5
"""Largest difference to the module, as a share of the output's range, that is called equal."""
Trial = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Inputs, and what the module makes of them."""
_SMALL, _LARGER = 16, 64  # sizes that a graph is tried at


def prove(
    module: nn.Module,
    program: ExportedProgram,
    ports: Sequence[Port],
    sizes: Sizes | None,
    first: Trial,
    name: str,
) -> tuple[Sizes | None, list[Trial], float]:
    """The sizes at which the graph computes what the module does, what was tried, and how near.

    Code that asks whether a size is even (to pad, or to crop) was followed one way. Such a graph
    is right at multiples of 2, say: larger multiples are tried until one holds.

    Args:
        module: in eval mode.
        program: its graph.
        ports: its inputs, None for free sizes.
        sizes: that the graph runs at; None when no spatial axis is free.
        first: a trial that was made already, since large networks take seconds.
        name: for messages.

    Raises:
        LeanganError: they differ by more than `TOLERANCE` at any such sizes.
    """
    try:
        trials = [first, *_other_sizes(module, ports, sizes)]
        return sizes, trials, _largest_difference(module, program, trials, name)
    except LeanganError:
        if sizes is None:
            raise
        for step in (sizes.multiple * factor for factor in (1, 2, 4, 8, 16)):
            coarse = Sizes(step, -(-sizes.minimum // step) * step)
            with contextlib.suppress(LeanganError):
                trials = _other_sizes(module, ports, coarse)
                return coarse, trials, _largest_difference(module, program, trials, name)
        raise


def _other_sizes(module: nn.Module, ports: Sequence[Port], sizes: Sizes | None) -> list[Trial]:
    """Trials at two further sizes, the second with odd sizes where they are allowed.

    Small ones, unless the module itself refuses them, as it may where it pads by reflection.
    """
    step = sizes.multiple if sizes else 1
    letters = sorted(
        {x for p in ports for x, s in zip(p.layout, p.shape, strict=True) if s is None}
    )
    if not letters:
        return []
    spatial = [x for x in letters if x != "N"]

    def trials(least: int) -> list[Trial]:
        base = -(-max(sizes.minimum if sizes else 1, least) // step) * step
        even = {letter: base + i * step for i, letter in enumerate(spatial)} | {"N": 1}
        odd = {letter: base + (2 * i + 1) * step for i, letter in enumerate(spatial)} | {"N": 3}
        inputs = [random_inputs(ports, even, 1), random_inputs(ports, odd, 2)]
        return [(x, run(module, x)) for x in inputs]

    try:
        return trials(_SMALL)
    except LeanganError:
        return trials(_LARGER)


def _largest_difference(
    module: nn.Module, program: ExportedProgram, trials: Sequence[Trial], name: str
) -> float:
    """Largest difference between module and graph over all trials, as a share of the range."""
    graph = runner(program)

    def difference(inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        with quiet():
            got = run(graph, inputs)
        return max(share_of_range(x, y) for x, y in zip(expected, got, strict=True))

    worst = 0.0
    for inputs, expected in trials:
        found = difference(inputs, expected)
        if not found <= TOLERANCE:
            # Once in a few hundred runs a machine was seen to add up in another order (4e-5 of
            # the range). What depends on sizes or on chance differs a second time.
            found = difference(inputs, run(module, inputs))
        if not found <= TOLERANCE:
            shapes = ", ".join(str(tuple(i.shape)) for i in inputs)
            raise LeanganError(
                f"The graph of {name} does not compute what the module does at {shapes} "
                f"(difference {found:.1e} of the range): its code depends on the size or "
                "is random, or its output is not finite."
            )
        worst = max(worst, found)
    return worst


def input_port(port: Port, sizes: Sizes | None) -> Port:
    """The port with the multiple that its free spatial axes need."""
    multiple = tuple(
        sizes.multiple if size is None and letter in SPATIAL and sizes is not None else 1
        for letter, size in zip(port.layout, port.shape, strict=True)
    )
    typical = tuple(
        -(-typical // step) * step if size is None else size
        for typical, size, step in zip(port.typical, port.shape, multiple, strict=True)
    )
    return dataclasses.replace(port, typical=typical, multiple=multiple)


def run(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What the module puts out, without gradients.

    Raises:
        LeanganError: it does not run on these inputs, or puts out something else than tensors.
    """
    try:
        with torch.no_grad():
            result = module(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LeanganError(
            f"{type(module).__name__} does not run on inputs of shape {shapes}: {reason}"
        ) from error
    results = tuple(result) if isinstance(result, tuple | list) else (result,)
    if not results or not all(isinstance(r, Tensor) for r in results):
        raise LeanganError(
            f"{type(module).__name__} returns {type(result).__name__}, not a tensor or a tuple of "
            "tensors; wrap it in a module that returns the tensors."
        )
    return results
