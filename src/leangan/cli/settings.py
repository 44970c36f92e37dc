"""What the global options said, for the one run of this process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Settings:
    """Set once by `leangan`'s own options, read by every command."""

    verbosity: int = 0
    """-1 with -q, 1 or more with -v."""
    debug: bool = False
    """Show tracebacks."""
    command: str = ""
    """What was typed, for the report."""


SETTINGS = Settings()
