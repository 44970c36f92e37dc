"""StyleGAN2's residual discriminator.

Karras et al.: Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020; with the names of
the usual PyTorch code.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, numbered
from leangan.generator import Port

_SLOPE = 0.2
_LAST = 4
"""The side at which the picture is seen as a whole."""
_EPSILON = 1e-8


class EqualConv(nn.Module):
    """A convolution whose weights are stored at deviation 1, whatever their number."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        # Blurring before a stride pads what the convolution then need not.
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ...]."""
        return F.conv2d(x, self.weight * self.scale, None, self.stride, self.padding)


class EqualLinear(nn.Module):
    """A linear layer of that kind."""

    def __init__(self, inputs: int, outputs: int, activated: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        y = F.linear(x, self.weight * self.scale, self.bias)
        return F.leaky_relu(y, _SLOPE) * math.sqrt(2) if self.activated else y


class Activation(nn.Module):
    """A bias and a leaky ReLU that keeps the deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        return F.leaky_relu(x + self.bias[:, None, None], _SLOPE) * math.sqrt(2)


class Blur(nn.Module):
    """A binomial low-pass filter of four taps, which `kernel` holds."""

    kernel: Tensor

    def __init__(self, padding: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", taps[:, None] * taps)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same, but for the padding."""
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, padding=self.padding, groups=channels)


class Block(nn.Module):
    """Two convolutions beside a 1x1 one, at half the size: their sum over the root of 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv(inputs, inputs, 3), Activation(inputs))
        self.conv2 = nn.Sequential(Blur(2), EqualConv(inputs, outputs, 3, 2), Activation(outputs))
        self.skip = nn.Sequential(Blur(1), EqualConv(inputs, outputs, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / 2, W / 2]."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class StyleGan2Discriminator(nn.Module):
    """Image [N, channels, S, S] to one score each, [N, 1], S = 4 * 2**blocks.

    One map tells how much the pictures of the batch differ, which a generator that always draws
    the same cannot hide (minibatch standard deviation, Karras et al. 2018). It is taken over the
    whole batch; the reference takes it over every four pictures.

    Args:
        channels: of the image.
        widths: channels of the first convolution, then of each block.
    """

    def __init__(
        self, channels: int = 3, widths: tuple[int, ...] = (128, 256, 512, 512, 512, 512, 512)
    ) -> None:
        super().__init__()
        first = nn.Sequential(EqualConv(channels, widths[0], 1), Activation(widths[0]))
        self.convs = nn.Sequential(first, *(Block(a, b) for a, b in pairwise(widths)))
        last = widths[-1]
        self.final_conv = nn.Sequential(EqualConv(last + 1, last, 3), Activation(last))
        self.final_linear = nn.Sequential(
            EqualLinear(last * _LAST**2, last, True), EqualLinear(last, 1, False)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Judge a batch of images."""
        x = self.convs(image)
        deviation = ((x - x.mean(0)).square().mean(0) + _EPSILON).sqrt().mean()
        x = torch.cat([x, torch.zeros_like(x[:, :1]) + deviation], 1)
        return self.final_linear(self.final_conv(x).flatten(1))


def recognise(state: State) -> dict[str, Any] | None:
    """convs.0.0, convs.N.conv2.1, final_conv and final_linear."""
    first = state.get("convs.0.0.weight")
    last = state.get("final_linear.1.weight")
    inner = [state.get(f"{name}.conv1.0.weight") for name in numbered(state, "convs.").values()]
    if first is None or first.dim() != 4 or last is None:
        return None
    widths = (*(w.shape[1] for w in inner if w is not None), last.shape[1])
    return {"channels": first.shape[1], "widths": widths}


def ports(
    *, channels: int = 3, widths: tuple[int, ...] = (128, 256, 512, 512, 512, 512, 512), **_: Any
) -> Ports:
    """Images in [-1, 1] in, of the one size that the number of blocks makes; scores out."""
    side = _LAST * 2 ** (len(widths) - 1)
    shape = (None, channels, side, side)
    image = Port("image", "image", "NCHW", shape, (4, channels, side, side), (-1.0, 1.0))
    return (image,), (Port("score", "score", "NC", (None, 1), (4, 1)),)


STYLEGAN2_DISCRIMINATOR = Architecture(
    name="stylegan2-discriminator",
    summary="StyleGAN2's residual discriminator (Karras et al. 2020)",
    task=None,
    recognise=recognise,
    build=StyleGan2Discriminator,
    ports=ports,
    part="discriminator",
)
