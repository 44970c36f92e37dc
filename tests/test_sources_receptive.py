"""How far a generator looks, against gradients and by hand."""

import math

import pytest
import torch
from torch import nn

from leangan.graph.receptive import receptive_field
from leangan.graph.shuffle_order import shuffle_by_phase
from leangan.sources.module import from_module


def seen(module: nn.Module) -> int:
    """The halo by gradients: with positive weights every path that exists shows."""
    with torch.no_grad():
        for p in module.parameters():
            p.abs_()
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    y = module.eval()(x)
    ratio = y.shape[2] / 48
    furthest = 0
    for i in range(int(20 * ratio), int(28 * ratio)):
        (gradient,) = torch.autograd.grad(y[0, :, i, int(24 * ratio)].sum(), x, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        low, high = math.floor(i / ratio), math.ceil((i + 1) / ratio) - 1
        furthest = max(furthest, low - int(rows.min()), int(rows.max()) - high)
    return furthest


def conv(i: int, o: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, settings.pop("k", 3), padding=settings.pop("p", 1), **settings)


@pytest.mark.parametrize(
    ("layers", "halo"),
    [
        ([conv(3, 4), nn.ReLU(), conv(4, 4), conv(4, 3)], 3),
        ([conv(3, 4, p=4, dilation=4), conv(4, 3, k=5, p=2)], 6),
        ([conv(3, 4, stride=2), conv(4, 4), nn.ConvTranspose2d(4, 3, 4, 2, 1)], 5),
        ([conv(3, 4), conv(4, 16), nn.PixelShuffle(2), conv(4, 3)], 3),
        ([conv(3, 4), nn.Upsample(scale_factor=2), conv(4, 3)], 2),
        ([conv(3, 4), nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 3)], 2),
        ([conv(3, 4), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.PReLU(4), conv(4, 3)], 3),
        ([nn.ReflectionPad2d(3), conv(3, 4, k=7, p=0), nn.ZeroPad2d(1), conv(4, 3, p=0)], 4),
        ([nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), conv(4, 3)], 1),
    ],
)
def test_halo_equals_what_gradients_reach(layers: list[nn.Module], halo: int) -> None:
    module = nn.Sequential(*layers)
    assert receptive_field(from_module(module, [torch.randn(1, 3, 32, 32)])) == halo
    assert seen(module) == halo


@pytest.mark.parametrize(
    "layers",
    [
        [conv(3, 4), nn.InstanceNorm2d(4), conv(4, 3)],
        [conv(3, 4), nn.InstanceNorm2d(4, affine=True)],
        [conv(3, 4), nn.GroupNorm(2, 4)],
        [conv(3, 3, padding_mode="circular")],
    ],
)
def test_global_statistics_have_no_halo(layers: list[nn.Module]) -> None:
    module = nn.Sequential(*layers)
    assert receptive_field(from_module(module, [torch.randn(1, 3, 32, 32)])) is None


def test_a_global_gate_has_no_halo() -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sigmoid(x.mean((2, 3), keepdim=True))

    assert receptive_field(from_module(Gate(), [torch.randn(1, 3, 32, 32)])) is None


def test_sound_counts_frames() -> None:
    """conv 7 looks 3 samples; kernel 16 at stride 8 one frame more; conv 7 behind it none."""
    up = nn.ConvTranspose1d(4, 4, 16, 8, 4)
    generator = from_module(
        nn.Sequential(nn.Conv1d(3, 4, 7, padding=3), up), [torch.randn(1, 3, 32)]
    )
    assert receptive_field(generator) == 4


def test_tiles_with_the_halo_equal_the_whole() -> None:
    module = nn.Sequential(conv(3, 8, p=2, dilation=2), nn.ReLU(), conv(8, 12), nn.PixelShuffle(2))
    generator = from_module(module, [torch.randn(1, 3, 32, 32)])
    halo = receptive_field(generator)
    assert halo is not None
    x = torch.randn(1, 3, 40, 40)
    whole = generator(x)
    tile = generator(x[:, :, 10 - halo : 20 + halo, 10 - halo : 20 + halo])
    inner = slice(2 * halo, -2 * halo)
    torch.testing.assert_close(tile[:, :, inner, inner], whole[:, :, 20:40, 20:40])


def test_a_shuffle_by_phase_reaches_as_far() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 5, padding=2)
    )
    generator = from_module(net.eval(), (torch.rand(1, 3, 16, 16),))
    ordered = shuffle_by_phase(generator)
    assert ordered is not generator
    assert receptive_field(ordered) == receptive_field(generator) == 2
