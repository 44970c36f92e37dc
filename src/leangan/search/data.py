"""Where a user's data lies, and how much of it to take."""

from __future__ import annotations

from pathlib import Path

from leangan import zoo
from leangan.generator import Generator
from leangan.graph.cost import macs

_ZOO = "zoo:"
_SAMPLE_MACS = 0.8e12
_FEWEST, _MOST = 12, 48


def data_path(data: Path | str | None) -> Path | None:
    """A folder or file as a path; `zoo:NAME` is fetched.

    Raises:
        UsageError: the zoo has no pictures of that name.
        LeanganError: they cannot be fetched.
    """
    if data is None:
        return None
    # A path object has eaten a slash at most: "zoo:photos" stays what it was.
    text = str(data)
    return zoo.folder(text.removeprefix(_ZOO)) if text.startswith(_ZOO) else Path(data)


def affordable(generator: Generator) -> int:
    """How many samples to take when nobody says: 12 to 48, fewer the more a run costs."""
    return int(max(_FEWEST, min(_MOST, _SAMPLE_MACS / max(1, macs(generator)))))
