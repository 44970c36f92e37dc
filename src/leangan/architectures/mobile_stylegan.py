"""A small style-based generator: depthwise convolutions between inverse wavelet transforms.

After MobileStyleGAN (Belousov 2021) and StyleGAN2 (Karras et al., CVPR 2020). What style does not
change, demodulation among it, is left to the kernels, so that runtimes find plain convolutions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.architectures.base import Architecture, Ports, State, numbered
from leangan.generator import Port

_SLOPE = 0.2
_FIRST = 4
"""The side that everything starts at."""
_BANDS = 4
"""Of a wavelet transform: the mean, and what differs across, down and both ways."""
_EPSILON = 1e-8


def inverse_haar(bands: Tensor) -> Tensor:
    """Undo an orthonormal Haar transform: [N, 4C, H, W] to [N, C, 2H, 2W]."""
    mean, across, down, both = bands.chunk(_BANDS, 1)
    left, right = mean + across, mean - across
    rise, fall = down + both, down - both
    pixels = torch.stack([left + rise, right + fall, left - rise, right - fall], 2)
    return F.pixel_shuffle(pixels.flatten(1, 2) / 2, 2)


class StyledConv(nn.Module):
    """Channels scaled by the style, then a depthwise 3x3 convolution and a 1x1 one."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        self.style = nn.Linear(style, inputs)
        self.style.bias.data.fill_(1.0)
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[N, inputs, H, W] and [N, style] to [N, outputs, H, W]."""
        scaled = x * self.style(style)[:, :, None, None]
        return F.leaky_relu(self.pointwise(self.depthwise(scaled)), _SLOPE)


class Level(nn.Module):
    """Twice the resolution by an inverse wavelet transform, then two convolutions."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        self.first = StyledConv(inputs // _BANDS, outputs, style)
        self.second = StyledConv(outputs, outputs, style)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[N, inputs, H, W] and [N, style] to [N, outputs, 2H, 2W]."""
        return self.second(self.first(inverse_haar(x), style), style)


class MobileStyleGan(nn.Module):
    """Latent [N, latent] to image [N, channels, S, S], where S is 4 * 2**len(widths).

    Args:
        latent: numbers drawn for each picture. Further axes of size 1 are taken as well.
        widths: channels at 4x4 and at each resolution after it, multiples of 4 but for the last;
            the picture, made as its wavelet transform, has one resolution more.
        style: numbers that the latent is mapped to.
        depth: layers that map it.
        channels: of the picture.
    """

    def __init__(
        self,
        latent: int = 512,
        widths: tuple[int, ...] = (512, 512, 512, 256, 128, 64),
        style: int = 512,
        depth: int = 4,
        channels: int = 3,
    ) -> None:
        super().__init__()
        sizes = (latent, *(style,) * depth)
        self.mapping = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.constant = nn.Parameter(torch.randn(1, widths[0], _FIRST, _FIRST))
        self.start = StyledConv(widths[0], widths[0], style)
        self.levels = nn.ModuleList(Level(a, b, style) for a, b in pairwise(widths))
        self.bands = nn.Conv2d(widths[-1], _BANDS * channels, 1)
        for layer in self.modules():  # or pictures hardly depend on the latent at first
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, _SLOPE)
        self.bands.weight.data.mul_(0.1)  # near grey

    def forward(self, latent: Tensor) -> Tensor:
        """Make a batch of pictures."""
        style = latent.flatten(1)
        style = style * torch.rsqrt(style.square().mean(1, keepdim=True) + _EPSILON)
        for layer in self.mapping:
            style = F.leaky_relu(layer(style), _SLOPE)
        x = self.start(self.constant.expand(style.shape[0], -1, -1, -1), style)
        for level in self.levels:
            x = level(x, style)
        return inverse_haar(self.bands(x))


def recognise(state: State) -> dict[str, Any] | None:
    """mapping.N, constant, start, levels.N.first, levels.N.second, bands."""
    constant, mapping = state.get("constant"), state.get("mapping.0.weight")
    bands = state.get("bands.weight")
    if constant is None or mapping is None or bands is None:
        return None
    levels = [
        state.get(f"{x}.second.pointwise.weight") for x in numbered(state, "levels.").values()
    ]
    widths = [level.shape[0] for level in levels if level is not None]
    return {
        "latent": mapping.shape[1],
        "widths": (constant.shape[1], *widths),
        "style": mapping.shape[0],
        "depth": len(numbered(state, "mapping.")),
        "channels": bands.shape[0] // _BANDS,
    }


def ports(
    *,
    latent: int = 512,
    widths: tuple[int, ...] = (512, 512, 512, 256, 128, 64),
    channels: int = 3,
    **_: Any,
) -> Ports:
    """Standard normal latents in, images in [-1, 1] out."""
    side = _FIRST * 2 ** len(widths)
    image = Port(
        "image", "image", "NCHW", (None, channels, side, side), (16, channels, side, side),
        (-1.0, 1.0),
    )  # fmt: skip
    return (Port("latent", "latent", "NC", (None, latent), (16, latent)),), (image,)


MOBILE_STYLEGAN = Architecture(
    name="mobile-stylegan",
    summary="small style-based generator of wavelets, noise to image (Belousov 2021)",
    task="synthesis",
    recognise=recognise,
    build=MobileStyleGan,
    ports=ports,
)
