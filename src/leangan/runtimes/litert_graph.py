"""The operators of a .tflite file as a graph that may be changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leangan.runtimes.litert_file import kind_of, operator_code


class File:
    """The operators of a file, and who makes and reads which tensor."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.index()

    def index(self) -> None:
        """Note makers and readers anew, after a change."""
        self.makers = {int(out): op for op in self.graph.operators for out in op.outputs}
        self.computed = {*self.makers, *map(int, self.graph.inputs)}
        self.readers: dict[int, list[Any]] = {int(out): [] for out in self.graph.outputs}
        for op in self.graph.operators:
            for tensor in {int(i) for i in op.inputs}:
                self.readers.setdefault(tensor, []).append(op)

    def kind(self, op: Any) -> str:
        """The name of an operator's kind; nothing for None."""
        return kind_of(self.model, op) if op is not None else ""

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Of a tensor, by its number."""
        return tuple(int(n) for n in self.graph.tensors[tensor].shape)

    def maker(self, tensor: int) -> Any:
        """What computes a tensor that nothing but one operator reads; else None."""
        if len(self.readers.get(tensor, ())) != 1 or tensor in map(int, self.graph.outputs):
            return None
        return self.makers.get(tensor)

    def replace(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Put operators in the place of others, where the last of those stood."""
        place = max(i for i, op in enumerate(self.graph.operators) if any(op is o for o in old))
        listed = list(self.graph.operators)
        listed[place + 1 : place + 1] = new
        self.graph.operators = [op for op in listed if not any(op is o for o in old)]
        self.index()


def operator(
    file: File,
    kind: str,
    version: int,
    inputs: Sequence[int],
    output: int,
    options: str = "",
    **values: float,
) -> Any:
    """A new operator, which is put into the graph by `File.replace`.

    Args:
        file: in whose list of kinds it is entered.
        kind: for example DEPTH_TO_SPACE.
        version: the least that has what it needs.
        inputs: tensors.
        output: tensor.
        options: the class of its settings, for example DepthToSpaceOptions; none when empty.
        values: of the settings.
    """
    from ai_edge_litert import schema_py_generated as schema

    op = schema.OperatorT()
    number = getattr(schema.BuiltinOperator, kind)
    op.opcodeIndex = operator_code(file.model, number, version)
    op.inputs, op.outputs = list(inputs), [output]
    if options:
        op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        op.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in values.items():
            setattr(op.builtinOptions, name, value)
    return op
