"""Whether training still goes well, seen from its losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_SMOOTH = 0.98
_EARLY = 50
"""Steps whose losses say nothing yet."""
_WORSE = 5.0
"""A smoothed loss of so many times the best one has diverged."""


@dataclass
class Watch:
    """Follows the loss of a run."""

    may_rise: bool = False
    """Whether weights are taken away on the way: then a loss that rises is as it should be."""
    smooth: float = math.nan
    best: float = math.inf
    seen: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    """The last loss of each kind."""

    def see(self, parts: dict[str, float]) -> str | None:
        """Take the losses of a step; what went wrong in words, None when nothing did."""
        total = sum(parts.values())
        if not math.isfinite(total):
            names = [name for name, value in parts.items() if not math.isfinite(value)]
            return f"the loss {names[0]} is no number"
        self.parts, self.seen = parts, self.seen + 1
        first = math.isnan(self.smooth)
        self.smooth = total if first else _SMOOTH * self.smooth + (1 - _SMOOTH) * total
        if self.seen < _EARLY or self.may_rise:
            return None
        self.best = min(self.best, self.smooth)
        if self.smooth > _WORSE * self.best:
            return f"the loss rose to {self.smooth:.3g}, from {self.best:.3g}"
        return None

    def to_json(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"smooth": self.smooth, "best": self.best, "seen": self.seen}
