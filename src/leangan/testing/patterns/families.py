"""Whole small networks: StyleGAN2, LaMa's Fourier block, discriminators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern
from leangan.testing.patterns.plain import IMAGES, conv


class Modulated(nn.Module):
    """A convolution whose kernel is scaled by a style for each picture of the batch."""

    def __init__(self, inputs: int, outputs: int, kernel: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = nn.Linear(7, inputs)
        self.scale = (inputs * kernel * kernel) ** -0.5
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(N, I, H, W), (N, 7) -> (N, O, H, W)."""
        n, c, h, w = x.shape
        _, o, i, k, _ = self.weight.shape
        weight = self.scale * self.weight * self.affine(style).view(n, 1, c, 1, 1)
        if self.demodulate:
            length = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * length.view(n, o, 1, 1, 1)
        weight = weight.view(n * o, i, k, k)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight, padding=k // 2, groups=n)
        return y.view(n, o, h, w) + self.bias.view(1, -1, 1, 1)


class StyleGan2(nn.Module):
    """A constant input, modulated convolutions, noise buffers, pictures summed over scales."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(5, 9), nn.LeakyReLU(0.2), nn.Linear(9, 7))
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.convs = nn.ModuleList([Modulated(8, 10, 3), Modulated(10, 6, 3), Modulated(6, 6, 3)])
        self.rgb = nn.ModuleList([Modulated(10, 3, 1, False), Modulated(6, 3, 1, False)])
        self.strength = nn.Parameter(torch.tensor([0.3, 0.5, 0.2]))
        for i, size in enumerate((4, 8, 8)):
            self.register_buffer(f"noise{i}", torch.randn(1, 1, size, size))

    def _layer(self, i: int, x: Tensor, style: Tensor) -> Tensor:
        noise = self.get_buffer(f"noise{i}")
        return F.leaky_relu(self.convs[i](x, style) + self.strength[i] * noise, 0.2) * 2**0.5

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 5) -> (N, 3, 8, 8)."""
        latent = latent * torch.rsqrt(latent.square().mean(1, keepdim=True) + 1e-8)
        style = self.mapping(latent)
        x = self._layer(0, self.constant.repeat(latent.shape[0], 1, 1, 1), style)
        picture = self.rgb[0](x, style)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self._layer(2, self._layer(1, x, style), style)
        picture = F.interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
        return picture + self.rgb[1](x, style)


class FourierUnit(nn.Module):
    """LaMa: half of the channels go through a 1x1 convolution on the spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 12), conv(12, 3)
        self.local, self.to_global, self.to_local = conv(6, 6), conv(6, 6), conv(6, 6)
        self.spectrum, self.norm = conv(12, 12, 1), nn.BatchNorm2d(12)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W), W even."""
        near, far = F.relu(self.head(image)).split(6, dim=1)
        n, c, h, w = far.shape
        spectrum = torch.fft.rfftn(far, dim=(-2, -1), norm="ortho")
        stacked = torch.stack((spectrum.real, spectrum.imag), dim=2).view(n, 2 * c, h, w // 2 + 1)
        stacked = F.relu(self.norm(self.spectrum(stacked)))
        stacked = stacked.view(n, c, 2, h, w // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        turned = torch.complex(stacked[..., 0], stacked[..., 1])
        wave = torch.fft.irfftn(turned, s=(h, w), dim=(-2, -1), norm="ortho")
        near, far = self.local(near) + self.to_local(far), self.to_global(near) + wave
        return self.last(torch.cat([F.relu(near), F.relu(far)], dim=1))


class PatchGan(nn.Module):
    """The usual discriminator of pictures by patches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, 8, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(8, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.LeakyReLU(0.2),
            nn.Conv2d(12, 16, 4, 1, 1, bias=False), nn.InstanceNorm2d(16), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 4, 1, 1),
        )  # fmt: skip

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 3, H, W) -> (N, 1, H / 4 - 2, W / 4 - 2)."""
        return self.layers(torch.cat([image, condition], dim=1))


class BatchDeviation(nn.Module):
    """A discriminator that sees the deviation within the batch, flattened into Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 10), nn.Conv2d(11, 8, 4, 2, 1)
        self.hidden, self.score = nn.Linear(8 * 16, 9), nn.Linear(9, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 8, 8) -> (N, 1)."""
        x = F.leaky_relu(self.first(image), 0.2)
        deviation = (x - x.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt().mean()
        deviation = deviation.view(1, 1, 1, 1).expand(x.shape[0], 1, 8, 8)
        x = F.leaky_relu(self.second(torch.cat([x, deviation], dim=1)), 0.2)
        return self.score(F.leaky_relu(self.hidden(x.flatten(1)), 0.2))


class Nothing(nn.Module):
    """One convolution from picture to picture: nothing can be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.only = conv(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return torch.sigmoid(self.only(image))


PATTERNS = (
    Pattern("stylegan2", StyleGan2, (((2, 5),), ((3, 5),)),
            {"mapping.0.weight": 9, "mapping.2.weight": 7, "constant": 8, "convs.0.weight": 10,
             "convs.1.affine.weight": 10, "convs.1.weight": 6, "convs.2.weight": 6}),
    Pattern("fourier-unit", FourierUnit, IMAGES, {"spectrum.weight": 6, "local.weight": 6},
            ("last.weight",)),
    Pattern("patchgan", PatchGan,
            (((2, 3, 16, 16), (2, 3, 16, 16)), ((3, 3, 24, 32), (3, 3, 24, 32))),
            {"layers.0.weight": 8, "layers.2.weight": 12, "layers.5.weight": 16},
            ("layers.8.weight",)),
    Pattern("batch-deviation", BatchDeviation, (((2, 3, 8, 8),), ((3, 3, 8, 8),)),
            {"first.weight": 10, "second.weight": 8, "hidden.weight": 9}, ("score.weight",)),
    Pattern("nothing-to-prune", Nothing, IMAGES, {}, ("only.weight",)),
)  # fmt: skip
