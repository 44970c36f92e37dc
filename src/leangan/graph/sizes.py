"""Give free sizes a number, for runtimes whose files hold every size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from leangan.errors import UsageError
from leangan.generator import Generator, Signature, Step
from leangan.graph.capture import capture, input_shapes, output_shapes
from leangan.graph.rewrite import views_as_reshapes


def fix_sizes(generator: Generator, sizes: Mapping[str, int] | None = None) -> Generator:
    """The generator at one size alone, its shape arithmetic gone from the graph.

    Args:
        generator: float or quantized.
        sizes: the number per layout letter of an input, for example `{"N": 1, "H": 256,
            "W": 256}`; where a letter is missing the typical size, and a batch of one.

    Returns:
        One without free sizes; `generator` itself when it has none.

    Raises:
        UsageError: a size is no multiple of what the network needs.
    """
    if all(None not in port.shape for port in generator.signature.inputs):
        return generator
    wanted = generator.sized({"N": 1} | dict(sizes or {}))
    for port in wanted.signature.inputs:
        for axis, (letter, size) in enumerate(zip(port.layout, port.typical, strict=True)):
            if port.shape[axis] is None and size % port.multiple_of(axis):
                raise UsageError(
                    f"{generator.name} needs sizes of {port.name!r} that are multiples of "
                    f"{port.multiple_of(axis)}; {letter} {size} is none."
                )
    module = wanted.module()
    views_as_reshapes(module)
    examples = wanted.example()
    program = capture(module, examples, [[] for _ in examples])
    inputs = tuple(
        dataclasses.replace(port, shape=shape, typical=shape, multiple=())
        for port, shape in zip(wanted.signature.inputs, _whole(input_shapes(program)), strict=True)
    )
    outputs = tuple(
        dataclasses.replace(port, shape=shape, typical=shape)
        for port, shape in zip(
            wanted.signature.outputs, _whole(output_shapes(program)), strict=True
        )
    )
    settings = {
        letter: size
        for port, old in zip(inputs, generator.signature.inputs, strict=True)
        for letter, size, before in zip(port.layout, port.typical, old.shape, strict=True)
        if before is None
    }
    return generator.then(
        program, Step("fix_sizes", settings), signature=Signature(inputs, outputs)
    )


def _whole(shapes: list[tuple[int | None, ...]]) -> list[tuple[int, ...]]:
    return [tuple(size for size in shape if size is not None) for shape in shapes]
