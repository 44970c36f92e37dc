"""PatchGAN, the discriminator of pix2pix and CycleGAN (Isola et al., CVPR 2017)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, convolutions, image_port
from leangan.architectures.norms import Norm, norm_kind, norm_layer, without_unused_statistics
from leangan.generator import Port


class PatchDiscriminator(nn.Module):
    """Image [N, in, H, W] to one score per patch, [N, 1, h, w].

    Args:
        in_channels: of the image (for pix2pix: of the image and its condition together).
        widths: channels after each convolution but the last.
        norm: the normalization layers.
        bias: whether the convolutions in front of them have biases.
        strides: of all convolutions; the reference halves the size in all but the last two.
        sigmoid: whether the scores are squeezed to (0, 1); the reference does not.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        norm: Norm = "instance",
        bias: bool = True,
        strides: tuple[int, ...] = (2, 2, 2, 1, 1),
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n, (a, b) in enumerate(pairwise((in_channels, *widths))):
            layers.append(nn.Conv2d(a, b, 4, strides[n], 1, bias=bias or n == 0))
            if n:
                layers.append(norm_layer(norm, b))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(widths[-1], 1, 4, strides[-1], 1))
        if sigmoid:
            layers.append(nn.Sigmoid())
        self.model = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Judge a batch of images."""
        return self.model(image)


def recognise(state: State) -> dict[str, Any] | None:
    """A chain of 4x4 convolutions at model.0, 2, 5, 8, ... to one channel."""
    weights = convolutions(state, "model.")
    shapes = [w.shape for w in weights.values()]
    places = [0, 2, *range(5, 3 * len(shapes), 3)][: len(shapes)]
    if len(shapes) < 3 or list(weights) != places or shapes[-1][0] != 1:
        return None
    if any(a[0] != b[1] for a, b in pairwise(shapes)) or any(s[2:] != (4, 4) for s in shapes):
        return None
    return {
        "in_channels": shapes[0][1],
        "widths": tuple(s[0] for s in shapes[:-1]),
        "norm": norm_kind(state, "model.3"),
        "bias": "model.2.bias" in state,
        "strides": (2,) * (len(shapes) - 2) + (1, 1),
        "sigmoid": False,
    }


def ports(
    *,
    in_channels: int = 3,
    strides: tuple[int, ...] = (2, 2, 2, 1, 1),
    sigmoid: bool = False,
    **_: Any,
) -> Ports:
    """Images in [-1, 1] in, scores out."""
    side = 256
    for stride in strides:
        side = (side - 2) // stride + 1
    return (
        (image_port("image", in_channels, (256, 256), (-1.0, 1.0)),),
        (
            Port(
                "score",
                "score",
                "NCHW",
                (None, 1, None, None),
                (1, 1, side, side),
                (0.0, 1.0) if sigmoid else None,
            ),
        ),
    )


PATCHGAN = Architecture(
    name="patchgan",
    summary="PatchGAN discriminator (Isola et al. 2017)",
    task=None,
    recognise=recognise,
    build=PatchDiscriminator,
    ports=ports,
    rename=without_unused_statistics,
    assumed=("strides", "sigmoid"),
    part="discriminator",
)
