"""Ends at half the resolution: the same function inside, near it where norms are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.graph.operators import read_convolution
from leangan.techniques.lighten import half_ends

BORDER = 16
"""Pixels that padding in another place may reach: kernels of 9 and what stands between them."""


class Rounded(nn.Module):
    """A picture plus what a small network with both ends makes of it: its size stays."""

    def __init__(self, kernel, turn, pad, norm):
        super().__init__()
        torch.manual_seed(kernel)
        half = kernel // 2
        full = {"padding": half, "padding_mode": "zeros"} if pad is None else {}
        edge = [] if pad is None else [pad(half)]
        self.net = nn.Sequential(
            *edge,
            nn.Conv2d(3, 8, kernel, **full),
            norm(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, turn, 2, 1),
            norm(12),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 8, turn, 2, 1, output_padding=4 - turn),
            norm(8),
            nn.PReLU(8),
            *edge,
            nn.Conv2d(8, 3, kernel, **full),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def load(net):
    return lg.load(net.eval(), example_inputs=[torch.rand(1, 3, 32, 32)], task="arrays")


def batch_norm(channels):
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm


def instance_norm(channels):
    norm = nn.InstanceNorm2d(channels, affine=True)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("turn", [3, 4])
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("pad", [None, nn.ReflectionPad2d, nn.ReplicationPad2d])
def test_inside_the_picture_nothing_changes(kernel, turn, pad):
    net = load(Rounded(kernel, turn, pad, batch_norm))
    made = half_ends(net, [(torch.rand(1, 3, 32, 32),)])
    assert len(made.history[-1].measured["layers"]) == 4
    x = torch.rand(2, 3, 64, 96)
    found, wanted = made(x), net(x)
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    torch.testing.assert_close(found[inside], wanted[inside], atol=1e-5, rtol=1e-5)
    assert found.shape == wanted.shape
    assert not any(
        conv.transposed
        for node in made.program.graph.nodes
        if (conv := read_convolution(node)) is not None
    )


def test_instance_norms_stay_near_and_nearer_than_without_statistics():
    net = load(Rounded(7, 3, nn.ReflectionPad2d, instance_norm))
    torch.manual_seed(1)
    pictures = [
        (F.interpolate(torch.rand(1, 3, 8, 12), size=(64, 96), mode="bicubic"),) for _ in range(6)
    ]
    made = half_ends(net, pictures[:4])
    wanted = [net(*x) for x in pictures[4:]]
    error = sum((made(*x) - y).square().mean() for x, y in zip(pictures[4:], wanted, strict=True))
    spread = sum(y.var() for y in wanted)
    assert error < 0.05 * spread
    bare = half_ends(net, [(torch.full((1, 3, 64, 96), 0.5),)])
    worse = sum((bare(*x) - y).square().mean() for x, y in zip(pictures[4:], wanted, strict=True))
    assert error < worse


def test_wide_layers_at_full_resolution_stay():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    given = lg.load(net.eval(), example_inputs=[torch.rand(1, 8, 32, 32)], task="arrays")
    with pytest.raises(LeanganError, match="no end to halve"):
        half_ends(given, [(torch.rand(1, 8, 32, 32),)])


def test_it_needs_data_and_a_float_network():
    net = load(Rounded(7, 3, None, instance_norm))
    with pytest.raises(UsageError, match="there is none"):
        half_ends(net, [])
    small = lg.quantize(net, [(torch.rand(1, 3, 32, 32),)])
    with pytest.raises(UsageError, match="half-ends"):
        half_ends(small, [(torch.rand(1, 3, 32, 32),)])
