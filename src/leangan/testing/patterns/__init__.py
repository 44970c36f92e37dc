"""Small networks, one for each way in which the channels of a GAN hang together."""

from __future__ import annotations

from leangan.testing.patterns import (
    attention,
    convolutions,
    families,
    norms,
    parametrized,
    plain,
    shapes,
)
from leangan.testing.patterns.base import Pattern, settle

__all__ = ["PATTERNS", "Pattern", "settle"]

PATTERNS: dict[str, Pattern] = {
    pattern.name: pattern
    for room in (plain, convolutions, norms, shapes, attention, parametrized, families)
    for pattern in room.PATTERNS
}
