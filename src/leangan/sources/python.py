"""`path/to/file.py:Class`: the user's own code, run because the user named it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.sources import live
from leangan.sources.base import Request

_SOURCE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_][\w.]*)")


def accepts(source: Any) -> bool:
    """Whether it has the form `something.py:Name`."""
    return isinstance(source, str) and _SOURCE.fullmatch(source) is not None


def load(source: Any, request: Request) -> Generator:
    """Import the file, make the class with `request.arguments`, fill it from `request.weights`.

    Raises:
        LeanganError: the file, the class or the weights do not work; with the reason.
    """
    return live.load(build(source, dict(request.arguments)), request)


def build(source: str, arguments: dict[str, Any]) -> nn.Module:
    """The module that `file.py:Class` makes of these arguments.

    The class may also be a function that returns a module, or a finished module.

    Raises:
        UsageError: no such file, no such name in it, or arguments that it does not take.
        LeanganError: the file's own code fails.
    """
    match = _SOURCE.fullmatch(source)
    assert match is not None
    path = Path(match["path"])
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    found: Any = import_file(path)
    for part in match["name"].split("."):
        if not hasattr(found, part):
            own = [k for k, v in vars(found).items() if _is_own_module_class(v, found)]
            raise UsageError(
                f"{path} has no {match['name']!r}; its modules are {', '.join(own) or 'none'}."
            )
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    try:
        made = found(**arguments)
    except Exception as error:
        raise UsageError(
            f"{match['name']} of {path} cannot be made with arguments {arguments}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{match['name']} of {path} makes a {type(made).__name__}, no nn.Module.")
    return made


def _is_own_module_class(value: Any, owner: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == getattr(owner, "__name__", None)
    )


def import_file(path: Path) -> Any:
    """Run the file as a module, its own folder importable as when Python runs a script."""
    name = f"leangan_user_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LeanganError(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up here
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise LeanganError(
            f"{path} fails when imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module
