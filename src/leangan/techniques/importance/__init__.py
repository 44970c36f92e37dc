"""Which channels are worth keeping: one criterion of the field each, by name."""

from __future__ import annotations

from leangan.errors import UsageError
from leangan.techniques.importance.base import Context, Criterion, Scores
from leangan.techniques.importance.maps import APOZ, FEATURE_RANK, MEAN_ACTIVATION
from leangan.techniques.importance.redundancy import REDUNDANCY
from leangan.techniques.importance.taylor import TAYLOR
from leangan.techniques.importance.weights import GEOMETRIC_MEDIAN, L1, L2, NORM_SCALE, RANDOM

__all__ = ["CRITERIA", "Context", "Criterion", "Scores", "criterion"]

CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        REDUNDANCY,
        L1,
        L2,
        NORM_SCALE,
        TAYLOR,
        MEAN_ACTIVATION,
        APOZ,
        FEATURE_RANK,
        GEOMETRIC_MEDIAN,
        RANDOM,
    )
}
"""By name."""


def criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        UsageError: there is none; the names are listed.
    """
    if name not in CRITERIA:
        raise UsageError(f"There is no criterion {name!r}; choose from {', '.join(CRITERIA)}.")
    return CRITERIA[name]
