"""Second moments of the patches that a layer reads, from correlations of its input at lags.

What tap s of channel a and tap t of channel b read at the same time depends, but for the borders,
on the lag between the taps alone. A 3x3 kernel has 45 pairs of taps and 13 lags, a 9x9 kernel 3321
and 145: so the moments cost a fraction of the product of all patches. Input windows are padded with
zeros without end, as if the layer also stood across their borders, so that the moments are those
of real patches, never negative along any direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from leangan.techniques.patches import Layer, Phase, phases

_COST = 1e9
"""Multiply-accumulates that the correlations of a layer may take, where enough positions allow."""
_LEAST = 4096
_MARGIN = 4
"""A window is at least so many times the largest lag, for what its borders cut off."""

Lag = tuple[int, ...]


class Correlations:
    """Correlations of a layer's input channels at all lags between its taps."""

    def __init__(
        self, layer: Layer, kernel: tuple[int, ...], inputs: Sequence[Tensor], rng: torch.Generator
    ) -> None:
        """Add up the correlations over windows of the inputs.

        Args:
            layer: that reads them.
            kernel: its spatial sizes.
            inputs: [N, C, *spatial] each, or [..., C] for a linear layer.
            rng: says where the windows are.
        """
        self.phases = [(p, _places(layer, kernel, p)) for p in phases(layer, kernel)]
        lags = sorted({_half(a, b)[0] for _, places in self.phases for a in places for b in places})
        reach = [max(abs(lag[axis]) for lag in lags) for axis in range(len(kernel))]
        channels = inputs[0].shape[layer.channel_axis]
        wanted = self._wanted(layer, channels, len(lags)) / len(inputs)
        self._found: dict[Lag, Tensor] = {}
        self.positions = 0
        for x in inputs:
            if layer.conv is None:
                x = x.reshape(-1, channels).mT[None]
            window = _window(x, wanted, reach, rng)
            self.positions += window.numel() // channels
            padded = F.pad(window, [n for r in reversed(reach) for n in (0, r)])
            sizes = padded.shape[2:]
            rows = padded.unflatten(1, (layer.groups, -1)).permute(
                1, 2, 0, *range(3, 3 + len(sizes))
            )
            rows = rows.flatten(2)  # [groups, channels, positions]
            for lag in lags:
                shift = sum(n * math.prod(sizes[axis + 1 :]) for axis, n in enumerate(lag))
                end = rows.shape[2] - shift
                product = rows[:, :, :end] @ rows[:, :, shift:].mT
                self._found[lag] = self._found[lag] + product if lag in self._found else product

    def _wanted(self, layer: Layer, channels: int, lags: int) -> float:
        within = channels // layer.groups
        columns = within * max(len(places) for _, places in self.phases)
        return max(_LEAST, 2 * columns, _COST / (channels * within * lags))

    def power(self) -> Tensor:
        """Mean square of each input channel: float64 (channels,)."""
        at_once = self._found[(0,) * len(next(iter(self._found)))]
        return at_once.diagonal(dim1=1, dim2=2).flatten().double() / max(1, self.positions)

    def moments(self, places: Sequence[Lag]) -> Tensor:
        """Of the patches of a phase: float32 [groups, channels * taps, channels * taps].

        Args:
            places: of its taps, as they stand in `phases`.
        """
        rows = []
        for a in places:
            row = []
            for b in places:
                lag, turned = _half(a, b)
                found = self._found[lag]
                row.append(found.mT if turned else found)
            rows.append(torch.stack(row, 3))
        made = torch.stack(rows, 2)  # [groups, channels, taps, channels, taps]
        return made.flatten(3).flatten(1, 2) / max(1, self.positions)


def _places(layer: Layer, kernel: tuple[int, ...], phase: Phase) -> list[Lag]:
    """Where the taps of a phase stand on the input, but for a common shift."""
    if layer.conv is None or not kernel:
        return [()]
    taps = torch.unravel_index(phase.taps, kernel)
    strides = layer.conv.stride if layer.conv.transposed else (1,) * len(kernel)
    axes = [
        ((t - t[0]) * d).div(s, rounding_mode="floor").tolist()
        for t, d, s in zip(taps, layer.conv.dilation, strides, strict=True)
    ]
    return list(zip(*axes, strict=True))


def _half(a: Lag, b: Lag) -> tuple[Lag, bool]:
    """The lag from a to b, or that from b to a and True: of two opposite ones, one is enough."""
    lag = tuple(y - x for x, y in zip(a, b, strict=True))
    back = tuple(-n for n in lag)
    return (back, True) if back > lag else (lag, False)


def _window(x: Tensor, wanted: float, reach: Sequence[int], rng: torch.Generator) -> Tensor:
    """A random part of `x` with about so many positions."""
    share = min(1.0, wanted / max(1, x.numel() // x.shape[1])) ** (1 / max(1, x.dim() - 2))
    for axis in range(2, x.dim()):
        least = _MARGIN * (reach[axis - 2] + 1) if reach else 1
        size = min(x.shape[axis], max(math.ceil(x.shape[axis] * share), least))
        first = int(torch.randint(x.shape[axis] - size + 1, (), generator=rng))
        x = x.narrow(axis, first, size)
    return x
