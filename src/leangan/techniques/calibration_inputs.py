"""What channels are judged on: the user's data, or random numbers where those are the input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.graph.channels import Coupling
from leangan.graph.cost import macs as count_macs
from leangan.techniques.importance import Criterion

Samples = Sequence[tuple[Tensor, ...]]

_DRAWN_KINDS = ("latent", "noise")
"""Inputs that are random numbers: they can be drawn where no data is given."""
_DRAWS = 256
_DRAW_MACS = 2e10
"""What one batch of drawn inputs may cost to run, in multiply-accumulates."""
_LEAST_BATCHES = 8


def calibration_inputs(
    generator: Generator,
    coupling: Coupling,
    judge: Criterion,
    data: Samples | None,
    *,
    reconstruct: bool,
    seed: int,
) -> Samples:
    """The data; drawn where the inputs are random numbers; none where none is needed."""
    if data is not None:
        if not data:
            raise UsageError("Pruning was given data, but it is empty: leave it out or fill it.")
        return data
    ports = generator.signature.inputs
    if all(port.kind in _DRAWN_KINDS for port in ports):
        return draw(generator, coupling, seed=seed)
    if not judge.needs_data and not reconstruct:
        return ()
    given = ", ".join(f"{port.name} ({port.kind or 'unknown kind'})" for port in ports)
    needs = [f"by={judge.name!r}"] * judge.needs_data + ["reconstruct=True"] * reconstruct
    raise UsageError(
        f"Pruning with {' and '.join(needs)} runs real inputs through {generator.name}, and "
        f"{given} cannot be made up: give data, or ask for by='l2' and reconstruct=False."
    )


def draw(generator: Generator, coupling: Coupling, *, seed: int) -> list[tuple[Tensor, ...]]:
    """Random inputs for a generator that takes nothing else."""
    batch = 1
    if _batch_is_free(generator) and not _batch_among_channels(generator, coupling):
        cost = max(count_macs(generator, {"N": 1}), 1)
        batch = min(max(int(_DRAW_MACS / cost), 1), _DRAWS // _LEAST_BATCHES)
    count = max(_LEAST_BATCHES, min(_DRAWS // batch, 4 * _LEAST_BATCHES))
    return [generator.example({"N": batch}, seed=seed + i) for i in range(count)]


def _batch_is_free(generator: Generator) -> bool:
    return all(
        port.shape[axis] is None
        for port in generator.signature.inputs
        for axis, letter in enumerate(port.layout)
        if letter == "N"
    )


def _batch_among_channels(generator: Generator, coupling: Coupling) -> bool:
    """Whether some layer folds the batch into its channels, as modulated convolutions do."""
    nodes = {node.name: node for node in generator.program.graph.nodes}
    read = [(r.source, r.axis) for group in coupling.groups for r in group.readers]
    return any(not isinstance(nodes[source].meta["val"].shape[axis], int) for source, axis in read)
