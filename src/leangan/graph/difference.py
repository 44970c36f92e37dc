"""How far two tensors lie apart that should be equal."""

from __future__ import annotations

from torch import Tensor


def share_of_range(expected: Tensor, found: Tensor) -> float:
    """The largest absolute difference, as a share of the range of what was expected.

    Returns:
        inf for another shape, or where either holds a number that is not finite. What was
        expected to be of one value only counts as of range 1.
    """
    shares = _shares(expected, found)
    return float("inf") if shares is None else float(shares.max())


def rms_share(expected: Tensor, found: Tensor) -> float:
    """The root mean square difference, likewise."""
    shares = _shares(expected, found)
    return float("inf") if shares is None else float(shares.square().mean().sqrt())


def _shares(expected: Tensor, found: Tensor) -> Tensor | None:
    both = (expected, found)
    if expected.shape != found.shape or not all(bool(t.isfinite().all()) for t in both):
        return None
    if not expected.numel():
        return expected.new_zeros(1)
    expected, found = expected.double(), found.double()
    spread = float(expected.max() - expected.min()) or 1.0
    return (expected - found).abs() / spread
