"""Which technique may follow which."""

from __future__ import annotations

from leangan.errors import UsageError
from leangan.generator import Generator


def refuse_quantized(generator: Generator, doing: str) -> None:
    """Raise UsageError when a generator is quantized: its 8-bit numbers belong to its weights."""
    if generator.quantized:
        raise UsageError(
            f"{generator.name} is quantized already, and its numbers belong to the weights that "
            f"it has. {doing} first, then quantize what comes out."
        )
