"""What is made smaller by training: a weighted sum of losses, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Port
from leangan.measure.perceptual import missing as missing_network
from leangan.tasks.images import is_image
from leangan.training.losses import perceptual as seen
from leangan.training.losses.mel import mel
from leangan.training.losses.pixel import charbonnier, l1, l2
from leangan.training.losses.pyramid import pyramid
from leangan.training.losses.spectrum import stft
from leangan.training.losses.structure import ssim
from leangan.training.losses.wavelet import wavelet

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes what was made and what was wanted, and returns one number, 0 for equal ones."""

LOSSES: dict[str, Callable[[], Loss]] = {
    "l1": lambda: l1,
    "l2": lambda: l2,
    "charbonnier": lambda: charbonnier,
    "pyramid": lambda: pyramid,
    "ssim": lambda: ssim,
    "wavelet": lambda: wavelet,
    "perceptual": seen.perceptual,
    "style": seen.style,
    "stft": lambda: stft,
    "mel": mel,
}
"""By name, each a function that gets the loss ready."""
_PICTURES = ("pyramid", "ssim", "wavelet", "perceptual", "style")
_SOUNDS = ("stft", "mel")
_NETWORKS = ("perceptual", "style")
"""Those that run a network, in the precision of the student's passes; the others need float32."""


class Objective:
    """A weighted sum of losses between two outputs.

    Pictures are compared in [0, 1], whatever their range, so that weights mean the same.
    """

    def __init__(self, weights: Mapping[str, float], port: Port) -> None:
        """Get all losses ready.

        Args:
            weights: by name of `LOSSES`.
            port: of the output.

        Raises:
            UsageError: a name or weight is wrong, or the loss is not for such an output.
            LeanganError: a feature network cannot be fetched.
        """
        if not weights:
            raise UsageError("There is no loss to train by.")
        for name, weight in weights.items():
            if name not in LOSSES:
                raise UsageError(f"There is no loss {name!r}; choose from {', '.join(LOSSES)}.")
            if not (weight > 0 and math.isfinite(weight)):
                raise UsageError(f"The weight of {name} must be above 0; it is {weight}.")
            if name in _PICTURES and not is_image(port):
                raise UsageError(f"{name} compares pictures, and {port.name!r} is none.")
            if name in _SOUNDS and port.kind != "waveform":
                raise UsageError(f"{name} compares waveforms, and {port.name!r} is none.")
        self.weights = dict(weights)
        self._losses = {name: LOSSES[name]() for name in weights}
        self._range = port.range if is_image(port) else None

    def __call__(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Each loss times its weight; under autocast, networks are run in its precision."""
        if self._range is not None:
            low, high = self._range
            made, wanted = ((x - low) / (high - low) for x in (made, wanted))
        device, found = made.device.type, {}
        rounded = torch.is_autocast_enabled(device)
        for name, loss in self._losses.items():
            with torch.autocast(device, enabled=rounded and name in _NETWORKS):
                found[name] = self.weights[name] * loss(made, wanted)
        return found


def read_losses(text: str) -> dict[str, float]:
    """Weights by name, of "charbonnier" or "charbonnier=1,perceptual=0.1".

    Raises:
        UsageError: a part is no NAME or NAME=WEIGHT.
    """
    found = {}
    for part in text.split(","):
        name, sign, weight = part.strip().partition("=")
        try:
            found[name.strip()] = float(weight) if sign else 1.0
        except ValueError:
            raise UsageError(f"{part!r} is no loss; write for example perceptual=0.1.") from None
    return found


def usual_losses(port: Port, preferred: Mapping[str, float] | None = None) -> dict[str, float]:
    """What outputs of that kind are compared by when nobody says.

    Args:
        port: of the output.
        preferred: the task's own weights, of which those by a network that cannot be fetched are
            left out.
    """
    if preferred is not None:
        without = missing_network() is not None
        return {k: v for k, v in preferred.items() if not (without and k in _NETWORKS)}
    if port.kind == "waveform":
        return {"l1": 1.0, "stft": 0.1}
    return {"charbonnier": 1.0}
