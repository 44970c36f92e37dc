"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from leangan.training.processes import is_first

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Say = Callable[..., None]
"""say(data, *renderables): prints `data` as JSON, or the renderables for people."""

_WIDE = 160
"""Columns where no terminal tells: a file or pipe wraps nothing."""


@contextmanager
def answer(as_json: bool) -> Iterator[Say]:
    """Give the command its one way to print a result.

    With `as_json`, everything that anybody (a library written in C++ included) prints meanwhile
    goes to stderr, so that stdout holds the JSON value and nothing else.
    """
    if not is_first():  # one of several processes that train together
        yield lambda data, *renderables: None
        return
    if not as_json:

        def say(data: Any, *renderables: RenderableType) -> None:
            console = stdout_console()
            for renderable in renderables:
                console.print(renderable)

        yield say
        return

    from leangan.report.json_report import to_text

    values: list[str] = []
    with _stdout_to_stderr():
        yield lambda data, *renderables: values.append(to_text(data))
    for value in values:
        sys.stdout.write(value + "\n")
    sys.stdout.flush()


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send file descriptor 1 to stderr for a while."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        # Python's own stream may stand for another file, as under a test runner or a notebook.
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def stdout_console() -> Console:
    """For results: plain when stdout is no terminal; rich itself honours NO_COLOR."""
    from rich.console import Console

    return Console(
        width=stdout_width(), highlight=False, soft_wrap=False, markup=False, emoji=False
    )


def stdout_width() -> int:
    """Columns to print in."""
    return shutil.get_terminal_size((_WIDE, 24)).columns


def parse_json(text: str, option: str) -> Any:
    """Read the JSON value of an option.

    Raises:
        UsageError: it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        from leangan.errors import UsageError

        raise UsageError(f"{option} must be JSON: {error} in {text!r}.") from error
