"""Progress on stderr: one living line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from leangan.cli.settings import SETTINGS
from leangan.training.processes import is_first


class Report(Protocol):
    """How a long job tells what it is doing."""

    def __call__(self, message: str, done: int | None = None, total: int | None = None) -> None:
        """Say what is going on now.

        Args:
            message: what is being done, in words.
            done: how many of `total` parts are done, where that is known.
            total: how many parts there are.
        """
        ...


@contextmanager
def progress() -> Iterator[Report]:
    """Show progress until the block ends; with -q nothing is shown."""
    if SETTINGS.verbosity < 0 or not is_first():
        yield lambda message, done=None, total=None: None
    elif sys.stderr.isatty() and SETTINGS.verbosity == 0:
        with _living_line() as report:
            yield report
    else:
        yield _plain_lines()


_AGAIN = 30.0
"""Seconds until a log is told again what still goes on, with its numbers as they are then."""


def _plain_lines() -> Report:
    last, stage, told = "", "", 0.0

    def report(message: str, done: int | None = None, total: int | None = None) -> None:
        nonlocal last, stage, told
        # A log wants one line per stage; the count within a stage is for -v.
        line = f"{message} ({done}/{total})" if SETTINGS.verbosity > 0 and total else message
        same, stage = stage == message.partition(":")[0], message.partition(":")[0]
        if same and ":" in message and time.monotonic() - told < _AGAIN and not SETTINGS.verbosity:
            return
        if line != last:
            told = time.monotonic()
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
            last = line

    return report


@contextmanager
def _living_line() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(message: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=message, completed=done or 0, total=total)

        yield report
