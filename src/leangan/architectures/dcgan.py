"""DCGAN's generator and discriminator.

Radford, Metz, Chintala: Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks, ICLR 2016.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, convolutions, image_port
from leangan.generator import Port

_KEY = re.compile(r"((?:\w+\.)?)\d+\.\w+")


class DcganGenerator(nn.Module):
    """Latent [N, latent, 1, 1] to image [N, channels, S, S] in [-1, 1].

    Args:
        latent: size of the latent vector ("nz").
        widths: channels after each transposed convolution but the last.
        channels: of the image.
        first: kernel of the first transposed convolution, which is the side of its output;
            each later one (kernel 4, stride 2) doubles the side.
        norm: BatchNorm after each but the last, or none.
        bias, last_bias: whether the transposed convolutions, and the last one, have biases.
    """

    def __init__(
        self,
        latent: int = 100,
        widths: tuple[int, ...] = (512, 256, 128, 64),
        channels: int = 3,
        first: int = 4,
        norm: Literal["batch", "none"] = "batch",
        bias: bool = False,
        last_bias: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, (a, b) in enumerate(pairwise((latent, *widths))):
            kernel, stride, padding = (first, 1, 0) if level == 0 else (4, 2, 1)
            layers.append(nn.ConvTranspose2d(a, b, kernel, stride, padding, bias=bias))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(b))
            layers.append(nn.ReLU())
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=last_bias), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Draw a batch of images."""
        return self.main(latent)


class DcganDiscriminator(nn.Module):
    """Image [N, channels, S, S] to the probability that it is real, [N, 1, 1, 1].

    Args:
        channels: of the image.
        widths: channels after each convolution but the last.
        last: kernel of the last convolution, which is the side of its input.
        norm: BatchNorm after each but the first and last, or none.
        bias: whether the convolutions have biases.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        last: int = 4,
        norm: Literal["batch", "none"] = "batch",
        bias: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, (a, b) in enumerate(pairwise((channels, *widths))):
            layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=bias))
            if level and norm == "batch":
                layers.append(nn.BatchNorm2d(b))
            layers.append(nn.LeakyReLU(0.2))
        layers += [nn.Conv2d(widths[-1], 1, last, bias=bias), nn.Sigmoid()]
        self.main = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Judge a batch of images."""
        return self.main(image)


def recognise(state: State) -> dict[str, Any] | None:
    """A list of layers of any one name whose 4-axis weights chain as transposed convolutions."""
    weights = _layers(state)
    shapes = [w.shape for w in weights.values()]
    if len(shapes) < 2 or any(a[1] != b[0] for a, b in pairwise(shapes)):
        return None
    # A plain convolution would have its channels the other way round.
    if any(s[2:] != (4, 4) for s in shapes[1:]) or shapes[0][2] != shapes[0][3]:
        return None
    if shapes[-1][1] > 4:
        return None
    prefix, numbers = _prefix(state) or "", list(weights)
    bias = f"{prefix}{numbers[0]}.bias" in state
    return {
        "latent": shapes[0][0],
        "widths": tuple(s[1] for s in shapes[:-1]),
        "channels": shapes[-1][1],
        "first": shapes[0][2],
        "norm": "batch" if numbers[1] - numbers[0] == 3 else "none",
        "bias": bias,
        "last_bias": bias or f"{prefix}{numbers[-1]}.bias" in state,
    }


def recognise_discriminator(state: State) -> dict[str, Any] | None:
    """A list of layers of any one name whose 4-axis weights chain as convolutions to 1 channel."""
    weights = _layers(state)
    shapes = [w.shape for w in weights.values()]
    if len(shapes) < 2 or any(a[0] != b[1] for a, b in pairwise(shapes)) or shapes[-1][0] != 1:
        return None
    if any(s[2:] != (4, 4) for s in shapes[:-1]):
        return None
    numbers = list(weights)
    # PatchGAN has the same shapes; it alone has a bias in its first layer but is told by `model.`.
    if _prefix(state) == "model.":
        return None
    return {
        "channels": shapes[0][1],
        "widths": tuple(s[0] for s in shapes[:-1]),
        "last": shapes[-1][2],
        "norm": "batch" if len(numbers) > 2 and numbers[2] - numbers[1] == 3 else "none",
        "bias": f"{_prefix(state)}{numbers[0]}.bias" in state,
    }


def _prefix(state: State) -> str | None:
    """The one name that all layers lie under, with its dot; None when they do not."""
    matches = [_KEY.fullmatch(name) for name in state]
    prefixes = {m[1] for m in matches if m}
    return prefixes.pop() if all(matches) and len(prefixes) == 1 else None


def _layers(state: State) -> dict[int, Tensor]:
    prefix = _prefix(state)
    return {} if prefix is None else convolutions(state, prefix)


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Call the list of layers `main`, whatever it was called."""
    prefix = _prefix(state)
    if prefix is None:
        return dict(state)
    return {f"main.{name.removeprefix(prefix)}": tensor for name, tensor in state.items()}


def ports(
    *,
    latent: int = 100,
    widths: tuple[int, ...] = (512, 256, 128, 64),
    channels: int = 3,
    first: int = 4,
    **_: Any,
) -> Ports:
    """Standard normal latents in, images in [-1, 1] out; usually drawn 16 at a time."""
    side = first * 2 ** len(widths)
    image = Port(
        "image",
        "image",
        "NCHW",
        (None, channels, side, side),
        (16, channels, side, side),
        (-1.0, 1.0),
    )
    return (
        (Port("latent", "latent", "NCHW", (None, latent, 1, 1), (16, latent, 1, 1)),),
        (image,),
    )


def discriminator_ports(
    *,
    channels: int = 3,
    widths: tuple[int, ...] = (64, 128, 256, 512),
    last: int = 4,
    **_: Any,
) -> Ports:
    """Images in [-1, 1] in, probabilities out."""
    side = last * 2 ** len(widths)
    image = image_port("image", channels, (side, side), (-1.0, 1.0), batch=16)
    score = Port("score", "score", "NCHW", (None, 1, None, None), (16, 1, 1, 1), (0.0, 1.0))
    return (image,), (score,)


DCGAN = Architecture(
    name="dcgan",
    summary="DCGAN generator, noise to image (Radford et al. 2016)",
    task="synthesis",
    recognise=recognise,
    build=DcganGenerator,
    ports=ports,
    rename=rename,
)

DCGAN_DISCRIMINATOR = Architecture(
    name="dcgan-discriminator",
    summary="DCGAN discriminator (Radford et al. 2016)",
    task=None,
    recognise=recognise_discriminator,
    build=DcganDiscriminator,
    ports=discriminator_ports,
    rename=rename,
    part="discriminator",
)
