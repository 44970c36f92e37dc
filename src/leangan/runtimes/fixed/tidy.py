"""Simplify a network of fixed-point operations without changing a bit of what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from leangan.runtimes.fixed.network import (
    Cast,
    Operation,
    Rectified,
    Reshaped,
    Scaled,
    Stored,
    Table,
    Transposed,
    Weighted,
)


def needed(operations: Mapping[str, Operation], last: str) -> list[Operation]:
    """In the order of computation, what `last` depends on."""
    names = {last}
    kept = []
    for operation in reversed(list(operations.values())):
        if operation.name in names:
            names.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


def fold_orders(operations: Mapping[str, Operation]) -> dict[str, Operation]:
    """Have linear layers put out maps channels last where their result is laid out as one.

    A transposition would hold the whole map in registers; in the weight it costs nothing.
    """
    found = dict(operations)
    readers = [name for operation in found.values() for name in operation.inputs]
    for operation in operations.values():
        if not isinstance(operation, Transposed) or operation.order != (1, 2, 0):
            continue
        laid_out = found[operation.inputs[0]]
        if not isinstance(laid_out, Reshaped):
            continue
        names = [laid_out.inputs[0]]
        while isinstance(found[names[-1]], Rectified | Cast | Table | Scaled):
            names.append(found[names[-1]].inputs[0])
        if not isinstance(found[names[-1]], Weighted) or len(found[names[-1]].shape) != 1:
            continue
        if any(readers.count(name) > 1 for name in (laid_out.name, *names)):
            continue
        order = np.arange(np.prod(laid_out.shape)).reshape(laid_out.shape)
        for name in names:
            found[name] = _reordered(found[name], order.transpose(operation.order).ravel())
        found[operation.name] = Reshaped(
            operation.name, laid_out.inputs, operation.shape, operation.format
        )
    return found


def _reordered(operation: Operation, order: np.ndarray) -> Operation:
    def moved(stored: Stored) -> Stored:
        return replace(stored, codes=stored.codes[..., order])

    if isinstance(operation, Weighted):
        return replace(operation, weight=moved(operation.weight), bias=moved(operation.bias))
    if isinstance(operation, Scaled):
        return replace(operation, scale=moved(operation.scale), bias=moved(operation.bias))
    return operation
