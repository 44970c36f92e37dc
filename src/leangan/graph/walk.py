"""The walk that puts labels on every value of a graph, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node, map_arg

from leangan.errors import LeanganError
from leangan.generator import Generator
from leangan.graph.capture import quiet
from leangan.graph.labels import Fields, Labels, spread
from leangan.graph.rewrite import tensor_of

_SIZES = (8, 12, 16, 24, 32, 64, 128)
"""Tried in turn, and the smallest that the generator was seen to run at."""


@dataclass
class Walk:
    """One run of a graph on labels."""

    module: GraphModule
    values: Mapping[Node, Any]
    """Per node its value at the sizes of this run: fake tensors, numbers."""
    labels: Labels = field(default_factory=Labels)
    fields: dict[Node, Any] = field(default_factory=dict)
    """Per node its `Fields`; a list of them where the operator puts out several tensors."""

    def value(self, argument: Any) -> Any:
        """The value of a node, or of a list that holds nodes; anything else is itself."""
        return map_arg(argument, lambda n: self.values[n])

    def shape(self, argument: Any) -> tuple[int, ...]:
        """The sizes of a tensor; () for a number."""
        value = self.value(argument)
        return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()

    def of(self, argument: Any) -> Fields:
        """The fields of an argument; none for what is no tensor."""
        found = self.fields.get(argument, ()) if isinstance(argument, Node) else ()
        return found if isinstance(found, tuple) else ()

    def meet(self, node: Node, arguments: Sequence[Any]) -> Fields:
        """What an elementwise operator on these arguments puts out."""
        reason = f"meets values that cannot be cut, in {node.name}"
        tensors = [a for a in arguments if isinstance(self.value(a), Tensor)]
        fields, shape = self.of(tensors[0]), self.shape(tensors[0])
        for other in tensors[1:]:
            fields = self.labels.meet((fields, shape), (self.of(other), self.shape(other)), reason)
            shape = tuple(torch.broadcast_shapes(shape, self.shape(other)))
        return tuple(
            made for found in fields for made in self.labels.make(found.labels.expand(shape))
        )

    def freeze(self, fields: Fields, reason: str) -> None:
        """None of the labels of these fields can be removed."""
        for made in fields:
            self.labels.freeze(made.labels.unique(), reason)


Rule = Callable[[Walk, Node], Any]


def walk(generator: Generator) -> Walk:
    """Run a generator's graph on labels.

    Raises:
        LeanganError: no small input can be run.
    """
    from leangan.graph.label_rules import rule_of

    module = generator.module()
    run = Walk(module, small_values(generator, module))
    tied: dict[tuple[Any, ...], str] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            run.fields[node] = ()
        elif node.op == "get_attr":
            run.fields[node] = _stored(run, node, tied) if node.users else ()
        elif node.op == "output":
            for result in node.all_input_nodes:
                run.freeze(run.of(result), "reaches the output")
        else:
            run.fields[node] = rule_of(run, node)(run, node)
    return run


def small_values(generator: Generator, module: GraphModule) -> dict[Node, Any]:
    """The values of all nodes on one small input, shapes only."""
    trouble: Exception | None = None
    tried = sorted({*_SIZES, max(_SIZES[0], generator.smallest_size)})
    for size in tried:
        sizes = {"N": 1}
        for port in generator.signature.inputs:
            for axis, letter in enumerate(port.layout):
                if letter not in sizes and port.shape[axis] is None:
                    multiple = port.multiple_of(axis)
                    sizes[letter] = -(-size // multiple) * multiple
        run = Interpreter(module, garbage_collect_values=False)
        try:
            with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                run.run(*generator.example(sizes))
        except Exception as error:  # too small for some padding or pooling, in whatever words
            trouble = error
            continue
        return dict(run.env)
    raise LeanganError(
        f"{generator.name} runs on no input of {tried[0]} to {tried[-1]} positions: {trouble}"
    )


def _stored(run: Walk, node: Node, tied: dict[tuple[Any, ...], str]) -> Fields:
    """Fresh labels on each axis of a stored tensor; the same for the same tensor."""
    path = str(node.target)
    tensor = tensor_of(run.module, node)
    if tensor is None or not tensor.dim():
        return ()
    key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
    first = tied.setdefault(key, path)
    fields: list[Any] = []
    for axis, size in enumerate(tensor.shape):
        if size > 1:
            known = run.labels.stored.get((first, axis))
            labels = run.labels.fresh(size) if known is None else known
            run.labels.stored[path, axis] = labels
            fields += run.labels.make(spread(labels, tensor.shape, axis))
    return tuple(fields)
