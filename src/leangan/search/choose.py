"""The fastest candidate that keeps what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leangan.report.words import conditions
from leangan.tasks.quality import LOWER_IS_BETTER

_NOT_QUALITY = ("speedup", "smaller")
_TIE = 0.95
"""A candidate this close to the fastest counts as equally fast, and the better one is taken."""


def choose(
    original: dict[str, Any], candidates: Sequence[dict[str, Any]], floor: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Pick from entries of report.json.

    Besides the metrics of the task, a floor may speak of `speedup` (against the original in
    PyTorch eager float) and of `smaller` (how many times smaller than the original's file).

    Returns:
        (delivered, best): the fastest entry that meets all of `floor`, None when there is none;
        and what is worth writing: the delivered one, else the fastest that meets what `floor`
        says of quality, else the one of the best quality. None when nothing runs.
    """
    wanted = conditions(floor)
    running = [c for c in candidates if c["error"] is None and c["speedup"]]

    def meets(entry: dict[str, Any], *, quality_only: bool) -> bool:
        facts = {
            **entry["quality"],
            "speedup": {"mean": entry["speedup"]},
            "smaller": {"mean": original["size_bytes"] / max(1, entry["size_bytes"])},
        }
        return keeps_quality(facts, floor) if quality_only else all(c.holds(facts) for c in wanted)

    first = next((c.metric for c in wanted if c.metric not in _NOT_QUALITY), "psnr")
    delivered = _fastest([c for c in running if meets(c, quality_only=False)], first)
    good = _fastest([c for c in running if meets(c, quality_only=True)], first)
    closest = max(running, key=lambda e: _quality(e, first), default=None)
    return delivered, delivered or good or closest


def keeps_quality(quality: Mapping[str, Any], floor: str) -> bool:
    """Whether it meets what `floor` says of quality, apart from speed and size."""
    return all(c.holds(quality) for c in conditions(floor) if c.metric not in _NOT_QUALITY)


def _fastest(entries: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    if not entries:
        return None
    top = max(e["speedup"] for e in entries)
    ties = [e for e in entries if e["speedup"] >= _TIE * top]
    return max(ties, key=lambda e: _quality(e, metric))


def _quality(entry: dict[str, Any], metric: str) -> float:
    """Larger is better; a metric that was not measured, or is infinite, counts as perfect."""
    mean = entry["quality"].get(metric, {}).get("mean")
    value = float("inf") if mean is None else float(mean)
    return -value if metric in LOWER_IS_BETTER else value
