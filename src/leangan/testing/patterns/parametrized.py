"""Weights that are computed from others: weight_norm and spectral_norm in both of their forms."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from leangan.testing.patterns.base import Pattern
from leangan.testing.patterns.convolutions import SIGNALS
from leangan.testing.patterns.plain import IMAGES, conv

Wrap = Callable[[nn.Module], nn.Module]


class Vocoder(nn.Module):
    """HiFi-GAN: up-sampling, then the mean of two residual blocks with other kernels."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.pre = wrap(nn.Conv1d(4, 16, 7, padding=3))
        self.ups = nn.ModuleList(
            wrap(nn.ConvTranspose1d(16 >> i, 8 >> i, 4, 2, 1)) for i in range(2)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(
                    wrap(nn.Conv1d(8 >> i, 8 >> i, k, padding=d * (k - 1) // 2, dilation=d))
                    for d in (1, 2)
                )
            )
            for i in range(2)
            for k in (3, 5)
        )
        self.post = wrap(nn.Conv1d(4, 1, 7, padding=3, bias=False))

    def forward(self, mel: Tensor) -> Tensor:
        """(N, 4, T) -> (N, 1, 4 T)."""
        x = self.pre(mel)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            results = []
            for block in self.blocks[2 * i : 2 * i + 2]:
                y = x
                for layer in block.children():
                    y = y + layer(F.leaky_relu(y, 0.1))
                results.append(y)
            x = torch.stack(results).sum(dim=0) / 2
        return torch.tanh(self.post(F.leaky_relu(x)))


class Critic(nn.Module):
    """A discriminator under spectral_norm, with a Linear layer at the end."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.first, self.second = wrap(conv(3, 10)), wrap(nn.Conv2d(10, 12, 4, 2, 1))
        self.last = wrap(nn.Linear(12, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1)."""
        x = F.leaky_relu(self.second(F.leaky_relu(self.first(image), 0.1)), 0.1)
        return self.last(x.sum(dim=(2, 3)) / 64)


def _old_weight_norm() -> nn.Module:
    return Vocoder(weight_norm)


def _new_weight_norm() -> nn.Module:
    return Vocoder(parametrizations.weight_norm)


def _old_spectral_norm() -> nn.Module:
    return Critic(spectral_norm)


def _new_spectral_norm() -> nn.Module:
    return Critic(parametrizations.spectral_norm)


_VOCODER = {"pre.weight": 16, "ups.0.weight": 8, "ups.1.weight": 4, "blocks.1.1.weight": 8}
_CRITIC = {"first.weight": 10, "second.weight": 12}

PATTERNS = (
    Pattern("weight-norm", _old_weight_norm, SIGNALS, _VOCODER, ("post.weight",)),
    Pattern("weight-norm-parametrized", _new_weight_norm, SIGNALS, _VOCODER, ("post.weight",)),
    Pattern("spectral-norm", _old_spectral_norm, IMAGES, _CRITIC, ("last.weight",)),
    Pattern("spectral-norm-parametrized", _new_spectral_norm, IMAGES, _CRITIC, ("last.weight",)),
)
