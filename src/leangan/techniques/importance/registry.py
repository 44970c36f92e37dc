"""All criteria by name."""

from __future__ import annotations

import difflib

from leangan.errors import UsageError
from leangan.techniques.importance.base import Criterion
from leangan.techniques.importance.maps import APOZ, FEATURE_RANK, MEAN_ACTIVATION
from leangan.techniques.importance.redundancy import REDUNDANCY
from leangan.techniques.importance.taylor import TAYLOR
from leangan.techniques.importance.weights import GEOMETRIC_MEDIAN, L1, L2, NORM_SCALE, RANDOM

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
"""The first is the best known, and the default."""


def criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        UsageError: there is none; the names are listed.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    near = difflib.get_close_matches(name, CRITERIA, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(CRITERIA)}."
    raise UsageError(f"There is no criterion {name!r}; {hint}")
