"""How far two tensors lie apart that should be equal."""

from __future__ import annotations

from torch import Tensor


def share_of_range(expected: Tensor, found: Tensor) -> float:
    """The largest absolute difference, as a share of the range of what was expected.

    Returns:
        inf for another shape, or where either holds a number that is not finite. What was
        expected to be of one value only counts as of range 1.
    """
    both = (expected, found)
    if expected.shape != found.shape or not all(bool(t.isfinite().all()) for t in both):
        return float("inf")
    if not expected.numel():
        return 0.0
    expected, found = expected.double(), found.double()
    spread = float(expected.max() - expected.min()) or 1.0
    return float((expected - found).abs().max()) / spread
