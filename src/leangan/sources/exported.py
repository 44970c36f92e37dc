"""A `.pt2` file: our own Generator, or a program that torch.export saved elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from leangan.archive import check, is_archive, open_archive
from leangan.errors import LeanganError, UnsafeFile, UsageError
from leangan.generator import Generator, Port
from leangan.graph.capture import input_shapes
from leangan.sources.base import Request
from leangan.sources.module import from_module
from leangan.sources.ports import guess_kind, layout_of


def accepts(source: Any) -> bool:
    """Whether it is a torch.export archive, or says that it is one."""
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    return path.suffix == ".pt2" or (path.is_file() and is_archive(path))


def load(source: Any, request: Request) -> Generator:
    """Open our own file as it was saved; capture a foreign program anew.

    Raises:
        UnsafeFile: the file would run code when opened; `request.trust` lets a foreign one.
        UsageError: a foreign program with free sizes, and no example inputs.
        LeanganError: the file is damaged, or no archive.
    """
    path = Path(source)
    request.only_generator(str(path))
    if not is_archive(path):
        raise LeanganError(f"{path} is damaged, cut short, or no exported program.")
    try:
        ours = check(path) is not None
    except UnsafeFile as error:
        if not request.trust:
            raise UnsafeFile(
                f"{error} Say --trust (trust=True) if you trust whoever made it."
            ) from error
        ours = False
    if ours:
        return open_archive(path)
    program = _open_foreign(path)
    examples = request.example_inputs or _examples(program, path)
    return from_module(
        program.module(check_guards=False),
        examples,
        inputs=_ports(program, examples),
        name=path.stem,
        task=request.task,
        kinds=request.kinds,
        ranges=request.ranges,
    )


def _open_foreign(path: Path) -> ExportedProgram:
    try:
        return torch.export.load(path)
    except Exception as error:  # whatever PyTorch's reader says of a damaged file
        raise LeanganError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _ports(program: ExportedProgram, examples: Sequence[Tensor]) -> list[Port]:
    """What the program says of its inputs; it refuses to run where it fixed a size."""
    names = [str(name) for name in program.graph_signature.user_inputs]
    made = []
    for name, shape, example in zip(names, input_shapes(program), examples, strict=False):
        layout = layout_of(len(shape))
        typical = tuple(example.shape) if example.dim() == len(shape) else (1,) * len(shape)
        made.append(Port(name, guess_kind(layout, shape), layout, shape, typical))
    return made


def _examples(program: ExportedProgram, path: Path) -> Sequence[Tensor]:
    """The example that the program was saved with, or one of its fixed sizes."""
    if program.example_inputs is not None and all(
        isinstance(x, Tensor) for x in program.example_inputs[0]
    ):
        return program.example_inputs[0]
    made = []
    for shape in input_shapes(program):
        fixed = [size for size in shape if size is not None]
        if len(fixed) != len(shape):
            raise UsageError(
                f"{path} takes inputs of free size {shape}: say a usual shape, for example "
                "--size 1x3x256x256 (example_inputs=)."
            )
        made.append(torch.randn(fixed, generator=torch.Generator().manual_seed(0)))
    return made
