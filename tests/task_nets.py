"""Small generators with signatures, for the tests of tasks."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture


def image_port(name, *, channels=3, size=32, multiple=1, value_range=(0.0, 1.0), fixed=False):
    free = size if fixed else None
    return Port(
        name, "image", "NCHW", (None, channels, free, free), (1, channels, size, size),
        value_range, (1, 1, multiple, multiple),
    )  # fmt: skip


def image_generator(
    module, *, channels=3, size=32, factor=1, multiple=1, value_range=(0.0, 1.0), fixed=False
):
    """A generator of images to images, `factor` times larger."""
    source = image_port(
        "image", channels=channels, size=size, multiple=multiple, value_range=value_range,
        fixed=fixed,
    )  # fmt: skip
    target = image_port(
        "output", channels=channels, size=size * factor, value_range=value_range, fixed=fixed
    )
    height, width = (size, size) if fixed else (4 * multiple + 16, 5 * multiple + 20)
    height, width = (-(-s // multiple) * multiple for s in (height, width))
    program = capture(
        module.eval(), [torch.rand(2, channels, height, width)], [[0] if fixed else [0, 2, 3]]
    )
    return Generator(program, Signature((source,), (target,)), name=type(module).__name__)


def latent_generator(module, ports, output, example):
    program = capture(module.eval(), example, [[0]] * len(example))
    return Generator(program, Signature(tuple(ports), (output,)), name=type(module).__name__)


class Smooth(nn.Module):
    """Three 3x3 convolutions: each output pixel sees 3 pixels to each side."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(channels, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(4 * self.c(torch.tanh(self.b(torch.tanh(self.a(x))))))


class Normed(Smooth):
    """The same with InstanceNorm: every output pixel depends on the whole picture."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(F.instance_norm(super().forward(x)))


class Twice(nn.Module):
    """Super-resolution by two; sees one pixel to each side."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return up + 0.2 * F.pixel_shuffle(self.conv(x), 2)


class UNet(nn.Module):
    """Two levels with skips: height and width must be multiples of 4."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down1 = nn.Conv2d(3, 8, 4, 2, 1)
        self.down2 = nn.Conv2d(8, 16, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.up1 = nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.tanh(self.down1(x))
        two = torch.tanh(self.down2(one))
        return torch.sigmoid(self.up1(torch.cat([one, self.up2(two)], 1)))


class Overflow(nn.Module):
    """1.2 in the left half, -0.1 in the right half, whatever the picture."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x * 0.0
        width = x.shape[3] // 2
        return torch.cat([flat[..., :width] + 1.2, flat[..., width:] - 0.1], 3)


class Latent(nn.Module):
    """Noise of 8 values to a 16x16 picture in [-1, 1]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(8, 3 * 16 * 16)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.dense(z).view(-1, 3, 16, 16))


class Voice(nn.Module):
    """Four features to a waveform, eight samples a frame."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ConvTranspose1d(4, 1, 16, 8, 4)

    def forward(self, mel: Tensor) -> Tensor:
        return torch.tanh(self.up(mel))


class Pair(nn.Module):
    """Noise and a condition to a vector."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(6, 5)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return self.dense(torch.cat([z, c], 1))


@functools.cache
def latent_net():
    return latent_generator(
        Latent(),
        [Port("z", "latent", "NC", (None, 8), (1, 8))],
        Port("image", "image", "NCHW", (None, 3, 16, 16), (1, 3, 16, 16), (-1.0, 1.0)),
        [torch.randn(2, 8)],
    )


@functools.cache
def voice_net():
    program = capture(Voice().eval(), [torch.randn(2, 4, 12)], [[0, 2]])
    mel = Port("mel", "mel", "NCT", (None, 4, None), (1, 4, 20), multiple=(1, 1, 2))
    wave = Port("wave", "waveform", "NCT", (None, 1, None), (1, 1, 160), (-1.0, 1.0))
    return Generator(program, Signature((mel,), (wave,)), name="Voice")


@functools.cache
def pair_net():
    return latent_generator(
        Pair(),
        [
            Port("z", "latent", "NC", (None, 4), (1, 4)),
            Port("c", "label", "NC", (None, 2), (1, 2), (0.0, 1.0)),
        ],
        Port("out", "feature", "NC", (None, 5), (1, 5)),
        [torch.randn(2, 4), torch.rand(2, 2)],
    )


def net_and_photos(folder):
    """`folder` with a saved generator, net.pt2, and three pictures in photos."""
    image_generator(Smooth(), size=32).save(folder / "net.pt2")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(picture).save(folder / "photos" / f"{number}.png")
    return folder
