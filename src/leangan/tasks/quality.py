"""Scores that several tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from torch import Tensor

from leangan.generator import Port
from leangan.measure import image, perceptual
from leangan.measure.signal import snr
from leangan.tasks.base import Score
from leangan.tasks.images import from_port, is_image

LOWER_IS_BETTER = frozenset({"perceptual", "mean_shift", "flat_shift", "psnr_y_lost"})


def score(metric: str, values: Sequence[float]) -> Score:
    """Mean and worst of one metric's values."""
    worst = max if metric in LOWER_IS_BETTER else min
    return Score(fmean(values), worst(values), len(values))


def image_quality(
    port: Port, reference: Sequence[Tensor], output: Sequence[Tensor]
) -> dict[str, Score]:
    """PSNR, SSIM, perceptual distance and mean shift, on pictures clipped to what can be shown.

    Args:
        port: of both sides, of kind image; one that is not laid out as a picture gets PSNR only.
        reference: one tensor per sample, in the port's layout and range.
        output: what is judged, likewise.
    """
    metrics: dict[str, Callable[[Tensor, Tensor], float]] = {"psnr": image.psnr}
    if is_image(port):
        pairs = [
            (from_port(r, port), from_port(o, port)) for r, o in zip(reference, output, strict=True)
        ]
        metrics |= {"ssim": image.ssim, "mean_shift": image.mean_shift}
        network = perceptual.load_network()
        if network is not None:
            metrics["perceptual"] = lambda a, b: perceptual.perceptual_distance(a, b, network)
    else:
        low, high = port.known_range()
        pairs = [
            (((r - low) / (high - low)).clamp(0, 1), ((o - low) / (high - low)).clamp(0, 1))
            for r, o in zip(reference, output, strict=True)
        ]
    return {name: score(name, [metric(a, b) for a, b in pairs]) for name, metric in metrics.items()}


def signal_quality(reference: Sequence[Tensor], output: Sequence[Tensor]) -> dict[str, Score]:
    """Signal to error ratio, of tensors of any meaning."""
    values = [snr(r, o) for r, o in zip(reference, output, strict=True)]
    return {"snr": score("snr", values)}
