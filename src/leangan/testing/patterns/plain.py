"""Chains, residuals, several inputs, modules and weights that are used twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern, Shapes

IMAGES: tuple[Shapes, Shapes] = (((2, 3, 16, 16),), ((3, 3, 20, 24),))


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the picture's size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


class Chain(nn.Module):
    """Three convolutions in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 12), conv(12, 10), conv(10, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.leaky_relu(self.first(image), 0.2)
        return torch.tanh(self.last(F.elu(self.second(x))))


class Residual(nn.Module):
    """Two residual blocks: the sums tie head and both second convolutions to one group."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 12), conv(12, 3)
        self.inner = nn.ModuleList([conv(12, 8), conv(12, 9)])
        self.outer = nn.ModuleList([conv(8, 12), conv(9, 12)])

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = self.head(image)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + 0.5 * outer(F.relu(inner(x)))
        return self.last(x)


class GlobalSkip(nn.Module):
    """The picture plus what the network adds to it: the last convolution stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 12), conv(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return image + self.last(F.silu(self.first(image)))


class OneOutput(nn.Module):
    """A last convolution with one output channel, which is no depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 16), conv(16, 8), conv(8, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 1, H, W)."""
        x = F.relu(self.second(F.relu(self.first(image))))
        return torch.sigmoid(self.last(x))


class Shared(nn.Module):
    """One block called twice: its input and output are one group."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.block, self.last = conv(3, 12), conv(12, 12), conv(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        for _ in range(2):
            x = F.relu(self.block(x))
        return self.last(x)


class Tied(nn.Module):
    """Two branches with one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, 10)
        self.left, self.right, self.last = conv(10, 12), conv(10, 12), conv(12, 3)
        self.right.weight = self.left.weight

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = torch.relu(self.head(image))
        return self.last(F.relu(self.left(x)) * torch.sigmoid(self.right(x)))


class SeveralInputs(nn.Module):
    """Picture and mask side by side, a latent spread over the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(4, 12), conv(12 + 6, 10), conv(10, 3)
        self.mapping, self.style = nn.Linear(5, 9), nn.Linear(9, 6)

    def forward(self, image: Tensor, mask: Tensor, latent: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 1, H, W), (N, 5) -> (N, 3, H, W)."""
        x = F.relu(self.first(torch.cat([image, mask], dim=1)))
        style = self.style(F.relu(self.mapping(latent)))[:, :, None, None]
        style = style.expand(-1, -1, x.shape[2], x.shape[3])
        x = F.relu(self.second(torch.cat([x, style], dim=1)))
        return image * (1 - mask) + mask * self.last(x)


class ClassLabel(nn.Module):
    """A class as one-hot vector, embedded and added to the features of the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.label, self.latent = nn.Linear(7, 11, bias=False), nn.Linear(5, 11)
        self.hidden, self.last = nn.Linear(11, 14), nn.Linear(14, 12)

    def forward(self, label: Tensor, latent: Tensor) -> Tensor:
        """(N, 7), (N, 5) -> (N, 3, 2, 2)."""
        x = F.relu(self.label(label) + self.latent(latent))
        return self.last(F.relu(self.hidden(x))).view(-1, 3, 2, 2)


class NoiseConcatenated(nn.Module):
    """Noise beside the features: its channels are the user's, not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 10), conv(14, 12), conv(12, 3)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 4, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.first(image))
        return self.last(F.relu(self.second(torch.cat([noise, x], dim=1))))


class Mlp(nn.Module):
    """Linear layers from a latent to a picture of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 64)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 6) -> (N, 1, 8, 8)."""
        return torch.tanh(self.layers(latent)).view(-1, 1, 8, 8)


PATTERNS = (
    Pattern("plain-chain", Chain, IMAGES, {"first.weight": 12, "second.weight": 10},
            ("last.weight",)),
    Pattern("residual-chain", Residual, IMAGES,
            {"head.weight": 12, "outer.1.weight": 12, "inner.1.weight": 9}, ("last.weight",)),
    Pattern("global-skip", GlobalSkip, IMAGES, {"first.weight": 12}, ("last.weight",)),
    Pattern("one-output-channel", OneOutput, IMAGES, {"first.weight": 16, "second.weight": 8},
            ("last.weight",)),
    Pattern("shared-module", Shared, IMAGES, {"block.weight": 12}, ("last.weight",)),
    Pattern("tied-weights", Tied, IMAGES, {"head.weight": 10, "right.bias": 12},
            ("last.weight",)),
    Pattern("several-inputs", SeveralInputs,
            (((2, 3, 16, 16), (2, 1, 16, 16), (2, 5)), ((3, 3, 20, 24), (3, 1, 20, 24), (3, 5))),
            {"first.weight": 12, "mapping.weight": 9, "style.weight": 6, "second.weight": 10},
            ("last.weight",)),
    Pattern("class-label", ClassLabel, (((2, 7), (2, 5)), ((3, 7), (3, 5))),
            {"label.weight": 11, "hidden.weight": 14}, ("last.weight",)),
    Pattern("noise-concatenated", NoiseConcatenated,
            (((2, 3, 16, 16), (2, 4, 16, 16)), ((3, 3, 20, 24), (3, 4, 20, 24))),
            {"first.weight": 10, "second.weight": 12}, ("last.weight",)),
    Pattern("mlp", Mlp, (((2, 6),), ((3, 6),)),
            {"layers.0.weight": 16, "layers.2.weight": 20}, ("layers.4.weight",)),
)  # fmt: skip
