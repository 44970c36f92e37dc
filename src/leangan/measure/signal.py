"""How far a signal of any shape is from its reference."""

from __future__ import annotations

import math

from torch import Tensor

CAP = 100.0
"""Decibels reported for equal signals: JSON knows no infinity. 100 dB is below float rounding."""


def decibels(ratio: float) -> float:
    """10 log10 of a power ratio, held within +-`CAP`; NaN, from a broken output, is -`CAP`."""
    if math.isnan(ratio) or ratio <= 0:
        return -CAP
    return max(-CAP, min(CAP, 10 * math.log10(ratio))) if math.isfinite(ratio) else CAP


def snr(reference: Tensor, output: Tensor) -> float:
    """Signal to error ratio in dB: energy of the reference over energy of the difference.

    Args:
        reference: any shape, any scale.
        output: the same shape. Where it is not finite, the result is -100.

    Returns:
        dB; 100 at most, which equal signals get. A silent reference with any error gets -100.
    """
    error = float((output.double() - reference.double()).square().sum())
    signal = float(reference.double().square().sum())
    if error == 0:
        return CAP
    return decibels(signal / error) if math.isfinite(error) else -CAP
