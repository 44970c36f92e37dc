"""Applications: how data becomes samples, and how outputs are judged."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from leangan.errors import LeanganError, UnknownValue, UsageError
from leangan.generator import Generator
from leangan.tasks.arrays import Arrays, Vocoder
from leangan.tasks.base import Task
from leangan.tasks.super_resolution import SuperResolution
from leangan.tasks.synthesis import Synthesis
from leangan.tasks.translation import Translation

TASKS: tuple[Task, ...] = (Translation(), SuperResolution(), Synthesis(), Vocoder(), Arrays())
"""Ours. Others are added by entry points of the group "leangan.tasks", each a `Task` object."""


@functools.cache
def all_tasks() -> tuple[Task, ...]:
    """`TASKS`, then those of installed packages.

    Raises:
        LeanganError: a package's entry point cannot be loaded; it is named.
    """
    found = list(TASKS)
    for point in entry_points(group="leangan.tasks"):
        try:
            found.append(point.load())
        except Exception as error:  # anything can go wrong in another's import
            raise LeanganError(
                f"The task {point.name!r} ({point.value}) of an installed package fails to load: "
                f"{error}"
            ) from error
    return tuple(found)


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: there is none; the names are listed.
    """
    for task in all_tasks():
        if task.name == name:
            return task
    raise UsageError(f"There is no task {name!r}; choose from {_choices()}.")


def infer(generator: Generator) -> Task:
    """The generator's task where it is stated, else what the kinds of its ports imply.

    Raises:
        UnknownValue: they imply no task, or several.
    """
    if generator.task is not None:
        return get(generator.task)
    # Every generator could be of task arrays, so that says nothing.
    matching = [t for t in all_tasks() if t.name != Arrays.name and t.matches(generator)]
    if len(matching) != 1:
        ports = [
            f"{port.name} ({port.kind or 'unknown kind'})"
            for port in (*generator.signature.inputs, *generator.signature.outputs)
        ]
        raise UnknownValue(
            f"What {generator.name} is for cannot be read off its ports, {', '.join(ports)}; "
            f"say it with --task, one of {_choices()}."
        )
    return matching[0]


def _choices() -> str:
    return ", ".join(task.name for task in all_tasks())
