"""What rules for labels share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from leangan.graph.labels import Fields, spread, vector
from leangan.graph.rewrite import tensor_of
from leangan.graph.walk import Walk


def unknown(run: Walk, node: Node) -> Any:
    """Fixes all labels that reach an operator which none of the rules is for."""
    for argument in node.all_input_nodes:
        found = run.fields.get(argument, ())
        for fields in found if isinstance(found, list) else [found]:
            run.freeze(fields, f"passes {node.target}, through which channels are not followed")
    value = run.values[node]
    return [()] * len(value) if isinstance(value, tuple | list) else ()


def elementwise(run: Walk, node: Node) -> Fields:
    """Each element of the result depends on the elements in its place."""
    return run.meet(node, node.all_input_nodes)


def freeze_along(run: Walk, argument: Any, axis: int, reason: str) -> None:
    """Fix all labels that vary along an axis of a value."""
    run.freeze(tuple(f for f in run.of(argument) if axis in f.axes), reason)


def with_vector(
    run: Walk, node: Node, fields: Fields, shape: Sequence[int], stored: Any, axis: int
) -> Fields:
    """Fields that meet a stored vector, one number for each channel of `axis`."""
    if not isinstance(stored, Node):
        return fields
    lined = tuple(
        x for f in run.of(stored) for x in run.labels.make(spread(vector(f, 0), shape, axis))
    )
    thin = [1] * len(shape)
    thin[axis] = run.shape(stored)[0]
    reason = f"meets values that cannot be cut, in {node.name}"
    return run.labels.meet((fields, shape), (lined, thin), reason)


def note_role(
    run: Walk,
    weight: Any,
    axis: int,
    role: str,
    into: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    """Note whether the channels along an axis of a weight go in or come out.

    Args:
        run: the walk.
        weight: the node that it comes from; where it is computed, `into` and `out` are noted for
            the stored tensor behind it.
        axis: of the weight.
        role: "in" or "out".
        into: the labels of the channels that go in, where they are known.
        out: of those that come out.
    """
    if not isinstance(weight, Node):
        return
    if weight.op == "get_attr":
        run.labels.roles.setdefault((str(weight.target), axis), role)
    elif into is not None and out is not None:
        path = _origin(run, weight)
        if path is not None:
            run.labels.computed.append((path, into, out))


def _origin(run: Walk, node: Node) -> str | None:
    """The largest stored tensor that a computed weight is made of."""
    seen, todo, best, most = {node}, [node], None, 0
    while todo:
        for source in todo.pop().all_input_nodes:
            tensor = tensor_of(run.module, source)
            if tensor is not None and tensor.dim() > 1 and tensor.numel() > most:
                best, most = str(source.target), tensor.numel()
            # A weight's own shape has as many elements; activations on the way do not matter.
            if source not in seen and math.prod(run.shape(source)) >= most:
                seen.add(source)
                todo.append(source)
    return best


def axis_of(run: Walk, argument: Any, dim: Any) -> int:
    """An axis that an operator names, counted from the front."""
    return int(dim) % max(1, len(run.shape(argument)))
