"""Depth-to-space in TensorFlow's order, and how a convolution before it takes that order over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from leangan.sources.keras_layers import Padded

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SiLU, nn.GELU, nn.Identity)
"""What does not mind in which order the channels lie."""


class DepthToSpace(nn.Module):
    """TensorFlow's depth_to_space, [N, block * block * C, H, W] to [N, C, H * block, W * block].

    In this spelling the ONNX file gets the one operator that it is.
    """

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Shuffle."""
        n, channels, height, width = x.shape
        kept = channels // self.block**2
        y = x.reshape(n, self.block, self.block, kept, height, width)
        y = y.permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, kept, height * self.block, width * self.block)


def convolution_of(run: Callable[..., Any]) -> nn.Conv2d | None:
    """The convolution whose channels come out of `run` in their order."""
    if isinstance(run, Padded):
        return convolution_of(run.layer)
    if isinstance(run, nn.Sequential) and all(isinstance(m, ACTIVATIONS) for m in run[1:]):
        return convolution_of(run[0])
    return run if isinstance(run, nn.Conv2d) and run.groups == 1 else None


def reorder(layer: nn.Conv2d, block: int) -> nn.PixelShuffle:
    """Order its channels anew, and return the shuffle that now does what TensorFlow's did."""
    channels = layer.out_channels
    order = torch.arange(channels).view(block, block, channels // block**2)
    order = order.permute(2, 0, 1).flatten()
    with torch.no_grad():
        layer.weight.copy_(layer.weight[order])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[order])
    return nn.PixelShuffle(block)
