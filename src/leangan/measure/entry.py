"""One line of every comparison table, and one ENTRY of report.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call, over the timed calls of a warmed-up session."""

    p50: float
    p90: float
    first: float
    """The very first call, which may compile or allocate; never mixed into the others."""


@dataclass(frozen=True)
class Entry:
    """One thing that was measured: the original, a candidate, or any artifact."""

    name: str
    runtime: str
    precision: str
    threads: int
    latency_ms: Latency | None
    """None when the candidate could not be run, and `error` says why; or where it ran in a
    simulator (`Runtime.timed`)."""
    speedup: float | None
    """Paired, against the original in PyTorch eager float on the same threads."""
    size_bytes: int
    size_bytes_zip: int
    params: int
    macs: int
    """Multiply-accumulates of one call at the measured size."""
    int8_share: float | None
    peak_memory_bytes: int | None
    quality: dict[str, dict[str, float | int]] = field(default_factory=dict)
    """{metric: {"mean", "worst", "n"}} against the original's own output (or `_truth`)."""
    file: str | None = None
    """The main file, relative to the report, when it was kept."""
    slower_than_float: bool = False
    """Slower than the original's fastest plain float form in the same runtime."""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
