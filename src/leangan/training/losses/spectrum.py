"""Spectra of sound, at several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor

_WINDOWS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
"""Points, hop and window in samples: those of Parallel WaveGAN (Yamamoto et al. 2020)."""
_FLOOR = 1e-7


def stft(made: Tensor, wanted: Tensor) -> Tensor:
    """Multi-resolution STFT loss: spectral convergence plus log magnitudes, means over windows.

    Yamamoto, Song, Kim: Parallel WaveGAN (ICASSP 2020), equations 5 to 7.

    Args:
        made: waveforms, (..., T) in [-1, 1], T at least 1024.
        wanted: the same shape.
    """
    total = made.new_zeros(())
    for points, hop, length in _WINDOWS:
        window = torch.hann_window(length, device=made.device)
        a, b = (_magnitude(x, points, hop, window) for x in (made, wanted))
        converged = (b - a).square().sum().sqrt() / b.square().sum().sqrt().clamp_min(_FLOOR)
        total = total + converged + (b.log() - a.log()).abs().mean()
    return total / len(_WINDOWS)


def _magnitude(x: Tensor, points: int, hop: int, window: Tensor) -> Tensor:
    flat = x.float().reshape(-1, x.shape[-1])
    spectrum = torch.stft(flat, points, hop, len(window), window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(_FLOOR).sqrt()
