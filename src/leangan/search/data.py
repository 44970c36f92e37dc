"""Where a user's data lies."""

from __future__ import annotations

from pathlib import Path

from leangan import zoo

_ZOO = "zoo:"


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
