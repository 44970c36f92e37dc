"""pix2pix's U-Net generator.

Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks,
CVPR 2017.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, image_port
from leangan.architectures.norms import (
    Norm,
    batch_norm_caution,
    norm_kind,
    norm_layer,
    without_unused_statistics,
)


class UnetLevel(nn.Module):
    """Halve the size, run the level below, double the size; all but the outermost keep a skip.

    Args:
        outer: channels of the level above: what comes in (but for the outermost) and goes out.
        inner: channels at half the size.
        below: the next level, None for the innermost.
        in_channels: of the image, for the outermost level only.
        kind, bias: of the norms, and whether convolutions in front of them have biases.
    """

    def __init__(
        self,
        outer: int,
        inner: int,
        below: nn.Module | None,
        kind: Norm,
        bias: bool,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        outermost = in_channels is not None
        down: list[nn.Module] = [
            nn.Conv2d(in_channels or outer, inner, 4, stride=2, padding=1, bias=bias)
        ]
        if not outermost:
            down.insert(0, nn.LeakyReLU(0.2))
            if below is not None:
                down.append(norm_layer(kind, inner))
        up: list[nn.Module] = [
            nn.ReLU(),
            nn.ConvTranspose2d(
                inner if below is None else 2 * inner,
                outer,
                4,
                stride=2,
                padding=1,
                bias=bias or outermost,
            ),
            nn.Tanh() if outermost else norm_layer(kind, outer),
        ]
        self.skip = not outermost
        self.model = nn.Sequential(*down, *([below] if below is not None else []), *up)

    def forward(self, x: Tensor) -> Tensor:
        """[N, outer, H, W] to [N, 2 outer, H, W], or image to image for the outermost level."""
        y = self.model(x)
        return torch.cat([x, y], 1) if self.skip else y


class UnetGenerator(nn.Module):
    """Image [N, in, H, W] to image [N, out, H, W], in [-1, 1]; H and W multiples of 2**downs.

    The reference drops out half of the channels in the three levels above the innermost; that
    holds no weights and does nothing in inference, and is left out.

    Args:
        in_channels, out_channels: of the images.
        width: channels after the first convolution ("ngf"); doubled per level, up to 8 times.
        downs: halvings: 7 for 128x128, 8 for 256x256.
        norm: the normalization layers. With "batch", inference uses the running statistics;
            the reference's own test script uses those of the picture at hand instead, which
            "instance_affine" computes from the same file.
        bias: whether convolutions in front of norms have biases.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        downs: int = 8,
        norm: Norm = "batch",
        bias: bool = False,
    ) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(downs)]
        level: nn.Module | None = None
        for outer, inner in reversed(list(pairwise(widths))):
            level = UnetLevel(outer, inner, level, norm, bias)
        self.model = UnetLevel(out_channels, width, level, norm, bias, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Translate a batch of images."""
        return self.model(x)


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off the nested `model.model.1.model.3.model` keys."""
    first = state.get("model.model.0.weight")
    if first is None or first.dim() != 4 or first.shape[2:] != (4, 4):
        return None
    levels = ["model.model.1"]
    while any(name.startswith(f"{levels[-1]}.model.3.model.") for name in state):
        levels.append(f"{levels[-1]}.model.3")
    last = state.get("model.model.3.weight")
    if last is None or last.dim() != 4 or f"{levels[-1]}.model.1.weight" not in state:
        return None
    # The innermost level has no norm on its way down, and its way up is nearer.
    up = f"{levels[0]}.model.{6 if len(levels) > 1 else 4}"
    return {
        "in_channels": first.shape[1],
        "out_channels": last.shape[1],
        "width": first.shape[0],
        "downs": len(levels) + 1,
        "norm": norm_kind(state, up),
        "bias": f"{levels[0]}.model.1.bias" in state,
    }


def ports(*, in_channels: int = 3, out_channels: int = 3, downs: int = 8, **_: Any) -> Ports:
    """Images in [-1, 1], of the size that the number of levels was made for."""
    side = 2**downs
    return (
        (image_port("image", in_channels, (side, side), (-1.0, 1.0)),),
        (image_port("translated", out_channels, (side, side), (-1.0, 1.0)),),
    )


PIX2PIX_UNET = Architecture(
    name="pix2pix-unet",
    summary="pix2pix U-Net generator, image to image (Isola et al. 2017)",
    task="translation",
    recognise=recognise,
    build=UnetGenerator,
    ports=ports,
    rename=without_unused_statistics,
    caution=batch_norm_caution,
)
