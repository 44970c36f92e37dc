"""HiFi-GAN's discriminators of waveforms: by periods, and at several rates as in MelGAN.

Kong, Kim, Bae: HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech
Synthesis, NeurIPS 2020; Kumar et al.: MelGAN, NeurIPS 2019, for those at several rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, numbered
from leangan.generator import Port

_SLOPE = 0.1
_PERIODS = (2, 3, 5, 7, 11)
_PERIOD_WIDTHS = (1, 4, 16, 32, 32)
_KERNELS, _STRIDES = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1)
_GROUPS, _SCALE_WIDTHS = (1, 4, 16, 16, 16, 16, 1), (1, 1, 2, 4, 8, 8, 8)
_SAMPLES = 25_600


class PeriodDiscriminator(nn.Module):
    """Waveform [N, 1, T] to scores [N, 1, about T / period / 81, period]: it never mixes columns.

    Args:
        period: samples in a row of the picture that the waveform is laid out as.
        width: channels of the first convolution.
    """

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(width * n for n in _PERIOD_WIDTHS)]
        strides = [3] * (len(widths) - 2) + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, (5, 1), (stride, 1), (2, 0))
            for (a, b), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.conv_post = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, waveform: Tensor) -> Tensor:
        """Judge a batch of waveforms, of any length of `period` or more."""
        period = self.period
        rows = (waveform.shape[-1] + period - 1) // period
        # The last row is filled by reflection. Padding by what is missing would depend on T.
        x = F.pad(waveform, (0, period - 1), "reflect")[..., : rows * period]
        x = x.reshape(-1, 1, rows, period)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _SLOPE)
        return self.conv_post(x)


class ScaleDiscriminator(nn.Module):
    """Waveform [N, 1, T] to scores [N, 1, about T / 64], by convolutions with large kernels.

    Args:
        width: channels of the first convolution, a multiple of 16.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [1, *(width * n for n in _SCALE_WIDTHS)]
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel, stride, kernel // 2, groups=groups)
            for (a, b), kernel, stride, groups in zip(
                pairwise(widths), _KERNELS, _STRIDES, _GROUPS, strict=True
            )
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, 3, padding=1)

    def forward(self, waveform: Tensor) -> Tensor:
        """Judge a batch of waveforms."""
        x = waveform
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _SLOPE)
        return self.conv_post(x)


class _Periods(nn.Module):
    """One discriminator a period, each sees the waveform itself."""

    def __init__(self, periods: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PeriodDiscriminator(p, width) for p in periods)

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        return tuple(judge(waveform) for judge in self.discriminators)


class _Scales(nn.Module):
    """One discriminator a rate, each sees averages of what the one before saw."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(ScaleDiscriminator(width) for _ in range(scales))

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        found = []
        for number, judge in enumerate(self.discriminators):
            if number:
                waveform = F.avg_pool1d(waveform, 4, 2, padding=2)
            found.append(judge(waveform))
        return tuple(found)


class WaveformDiscriminator(nn.Module):
    """Waveform [N, 1, T] to the scores of several discriminators, a tensor of each.

    Args:
        periods: of the multi-period discriminator; none for the multi-scale one alone.
        scales: of the multi-scale discriminator, each at half the rate of the one before; 0 for
            the multi-period one alone.
        period_width, scale_width: channels of their first convolutions, the latter a multiple
            of 16. The reference has 41 and 30 million weights.
    """

    def __init__(
        self,
        periods: tuple[int, ...] = _PERIODS,
        scales: int = 3,
        period_width: int = 32,
        scale_width: int = 128,
    ) -> None:
        super().__init__()
        self.mpd = _Periods(periods, period_width)
        self.msd = _Scales(scales, scale_width)

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Judge a batch of waveforms: by the periods, then by the scales."""
        return (*self.mpd(waveform), *self.msd(waveform))


def recognise(state: State) -> dict[str, Any] | None:
    """mpd.discriminators.N.convs.M, msd.discriminators.N.convs.M, or one of both alone."""
    state = rename(state, {})
    periods, scales = (numbered(state, f"{part}.discriminators.") for part in ("mpd", "msd"))
    first = state.get("mpd.discriminators.0.convs.0.weight")
    scale = state.get("msd.discriminators.0.convs.0.weight")
    if (first is None and scale is None) or len(periods) > len(_PERIODS):
        return None
    return {
        "periods": _PERIODS[: len(periods)],
        "scales": len(scales),
        **({} if first is None else {"period_width": first.shape[0]}),
        **({} if scale is None else {"scale_width": scale.shape[0]}),
    }


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Say of bare `discriminators.N` whose they are: by periods, kernels have two axes."""
    kernels = [t for name, t in state.items() if name.endswith("convs.0.weight")]
    part = "mpd" if any(t.dim() == 4 for t in kernels) else "msd"
    return {
        f"{part}.{name}" if name.startswith("discriminators.") else name: tensor
        for name, tensor in state.items()
    }


def ports(*, periods: tuple[int, ...] = _PERIODS, scales: int = 3, **_: Any) -> Ports:
    """About a second of speech in, the scores of each discriminator out."""
    # Any length does; what is traced must be long enough for more than one score of each.
    speech = Port(
        "waveform", "waveform", "NCT", (None, 1, None), (1, 1, _SAMPLES), (-1.0, 1.0), (1, 1, 1024)
    )
    scores = []
    for period in periods:
        rows = -(-_SAMPLES // period)
        for _conv in _PERIOD_WIDTHS[1:]:
            rows = -(-rows // 3)
        shape = (None, 1, None, period)
        scores.append(Port(f"period_{period}", "score", "NCHW", shape, (1, 1, rows, period)))
    samples = _SAMPLES
    for number in range(scales):
        samples = samples // 2 + 1 if number else samples
        frames = samples
        for stride in _STRIDES:
            frames = -(-frames // stride)
        scores.append(Port(f"scale_{number}", "score", "NCT", (None, 1, None), (1, 1, frames)))
    return (speech,), tuple(scores)


HIFIGAN_DISCRIMINATOR = Architecture(
    name="hifigan-discriminator",
    summary="multi-period and multi-scale discriminators of speech (Kong et al. 2020)",
    task=None,
    recognise=recognise,
    build=WaveformDiscriminator,
    ports=ports,
    rename=rename,
    assumed=("periods",),
    part="discriminator",
)
