"""What a pattern is: a small network with weights in which every mistake shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
Shapes = tuple[tuple[int, ...], ...]
"""One shape per input."""


@dataclass(frozen=True)
class Pattern:
    """A small network in which one way of coupling channels occurs."""

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[Shapes, Shapes]
    """Of the inputs at two sizes that the network runs at."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """Width of the group that the stored tensor of this path belongs to with its channels,
    where that is certain. Paths are those after loading: weight_norm is baked by then."""
    whole: tuple[str, ...] = ()
    """Paths of weights none of whose own channels can be removed."""

    def build(self, seed: int = 0) -> nn.Module:
        """The network in eval mode; the same seed gives the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = self.make()
            settle(module)
        return module.eval()

    def inputs(self, size: int = 0, seed: int = 0) -> tuple[Tensor, ...]:
        """Standard normal inputs at the first (0) or second (1) size."""
        rng = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=rng) for shape in self.shapes[size])


def settle(module: nn.Module) -> None:
    """Random values for what starts as 0 or 1, so that no slice is like another."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            leaf = name.rpartition(".")[2]
            if leaf == "running_var":
                tensor.uniform_(0.5, 2)
            elif leaf in ("running_mean", "bias"):
                tensor.normal_(0, 0.3)
            elif leaf == "weight" and tensor.dim() == 1:  # a norm's scale, a PReLU's slopes
                tensor.uniform_(0.3, 1.5)
            elif leaf in ("weight_g", "original0"):  # weight_norm's lengths
                tensor.uniform_(0.7, 1.5)
        for part in module.modules():
            weight = getattr(part, "weight", None)
            if not isinstance(part, _LAYERS) or not isinstance(weight, nn.Parameter):
                continue
            # PyTorch's own start shrinks the signal to nothing within a few layers.
            summed = weight[0].numel()
            if isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                summed = weight.numel() // (part.out_channels * math.prod(part.stride))
            weight.normal_(0, 1.2 * max(summed, 1) ** -0.5)
