"""The module that runs a program, made once: for a large graph that takes seconds."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch.export import ExportedProgram
from torch.fx import GraphModule

_MADE: WeakKeyDictionary[ExportedProgram, GraphModule] = WeakKeyDictionary()


def runner(program: ExportedProgram) -> GraphModule:
    """The program as a module that shares its weights; not to be changed, copy it for that."""
    if program not in _MADE:
        # Sizes are checked by probing; the export's own guards also hold accidents of the
        # example sizes, and are left out.
        module = program.module(check_guards=False)
        assert isinstance(module, GraphModule)
        _MADE[program] = module
    return _MADE[program]
