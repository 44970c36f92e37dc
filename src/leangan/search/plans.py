"""Which layers to leave in float, so that the output keeps its quality at the least cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leangan.techniques.calibrate import Calibration


@dataclass(frozen=True)
class Plan:
    """One choice of layers for 8 bits."""

    keep_float: tuple[str, ...]
    """In the order of computation."""
    predicted_db: float
    """Of the output against the float generator's, from the noise of each layer alone."""

    @property
    def name(self) -> str:
        """For people: "all layers", "all but 2 layers"."""
        count = len(self.keep_float)
        return "" if not count else f", {count} layer{'s' if count > 1 else ''} float"


def plans(
    calibration: Calibration,
    macs: Mapping[str, int],
    power: float,
    targets_db: Sequence[float],
    *,
    most_float: float = 0.5,
) -> list[Plan]:
    """Choices from the boldest to the most careful.

    The noise of layers is taken to add up, which holds well for rounding (within a decibel on the
    networks tried). Layers are given back to float by the noise that they make per
    multiply-accumulate: what is noisy and cheap goes first. Layers that read the same values go
    together.

    Args:
        calibration: of the layers.
        macs: multiply-accumulates by layer name.
        power: what the noise is compared with: the squared range for PSNR, the mean square of the
            output for a signal-to-noise ratio.
        targets_db: what to aim at. All layers in 8 bits are always one of the plans.
        most_float: no plan leaves more than this share of the multiply-accumulates in float.

    Returns:
        Different plans only.
    """
    total = max(1, sum(macs.get(n, 0) for n in calibration))
    groups: dict[str, list[str]] = {}
    for name, layer in calibration.items():
        groups.setdefault(layer.source, []).append(name)
    by_price = sorted(
        groups.values(),
        key=lambda g: sum(calibration[n].noise for n in g) / max(1, sum(macs.get(n, 0) for n in g)),
        reverse=True,
    )
    found: list[Plan] = []
    for target in (-math.inf, *sorted(targets_db)):
        kept: list[str] = []
        for group in by_price:
            if predicted(calibration, kept, power) >= target:
                break
            if sum(macs.get(n, 0) for n in (*kept, *group)) <= most_float * total:
                kept += group
        order = tuple(n for n in calibration if n in kept)
        if all(p.keep_float != order for p in found) and len(order) < len(calibration):
            found.append(Plan(order, predicted(calibration, kept, power)))
    return found


def predicted(calibration: Calibration, keep_float: Sequence[str], power: float) -> float:
    """Decibels of the output when all layers but `keep_float` run in 8 bits."""
    noise = sum(layer.noise for n, layer in calibration.items() if n not in keep_float)
    return 10 * math.log10(power / noise) if noise else math.inf
