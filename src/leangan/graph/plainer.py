"""Operators that a captured graph holds in plainer forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def istft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Any:
    """`torch.istft` as a transposed convolution, which has shapes without looking at values.

    Its kernel is the inverse basis times the window; what it adds up is divided by the sum of
    the squared windows that overlap there.

    It takes what `torch.istft` takes, and returns NotImplemented for a spectrum with both of its
    sides and for a complex result.
    """
    bins = n_fft // 2 + 1
    if return_complex or onesided is False or int(x.shape[-2]) != bins:
        return NotImplemented
    hop = n_fft // 4 if hop_length is None else hop_length
    width = n_fft if win_length is None else win_length
    if window is None:
        window = x.real.new_ones(width)
    left = (n_fft - width) // 2
    window = F.pad(window, (left, n_fft - width - left)).double()
    # Counted from the window rather than by arange: what depends on stored tensors is folded.
    time = torch.ones_like(window).cumsum(0) - 1
    bin_ = time[:bins, None]
    angle = (bin_ * time).remainder(n_fft) * (2 * math.pi / n_fft)
    # The bins between the first and the middle stand for their mirror images too.
    sides = torch.where((bin_ == 0) | (2 * bin_ == n_fft), 1.0, 2.0).double()
    scale = 1 / math.sqrt(n_fft) if normalized else 1 / n_fft
    basis = torch.cat([sides * angle.cos(), -sides * angle.sin()]) * window * scale
    kernel, square = (w.to(x.real.dtype) for w in (basis[:, None], window.square()[None, None]))

    parts = torch.cat([x.real, x.imag], -2)
    batch = parts if x.dim() == 3 else parts[None]
    wave = F.conv_transpose1d(batch, kernel, stride=hop)
    overlap = F.conv_transpose1d(torch.ones_like(batch[:1, :1]), square, stride=hop)
    start = n_fft // 2 if center else 0
    if length is None:
        end = -start if center else None
        wave = wave[:, 0, start:end] / overlap[:, 0, start:end]
    else:
        wave = wave[:, 0, start : start + length] / overlap[:, 0, start : start + length]
        wave = F.pad(wave, (0, length))[:, :length]
    return wave if x.dim() == 3 else wave[0]


def view_as_complex(x: Tensor) -> Tensor:
    """As a copy: the strides that a view needs are gone once a clone in front of it is."""
    return torch.complex(x[..., 0], x[..., 1])


def squeeze(x: Tensor) -> Tensor:
    """With its axes named: the number of axes of the result is known then."""
    return x.squeeze([axis for axis, n in enumerate(x.shape) if statically_known_true(n == 1)])


def copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What is written over a tensor, without the tensor."""
    return source.to(x.dtype).expand(x.shape)


PLAINER: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.copy.default: copy,
    torch.ops.aten.istft.default: istft,
    torch.ops.aten.squeeze.default: squeeze,
    torch.ops.aten.view_as_complex.default: view_as_complex,
}
"""By operator, for `ExportedProgram.run_decompositions`."""
