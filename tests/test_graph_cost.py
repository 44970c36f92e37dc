"""Layers and multiply-accumulates, against torch's own counter and by hand."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.cost import Layer, layers, macs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 4, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = self.up(self.grouped(self.conv(x).relu()))
        z = self.head(y.mean((2, 3)))
        return z @ z.T


def make() -> Generator:
    port = Port("x", None, "NCHW", (None, 3, None, None), (2, 3, 17, 19))
    program = capture(Net().eval(), (torch.randn(2, 3, 17, 19),), [(0, 2, 3)])
    return Generator(program, Signature((port,), ()))


def test_macs_agree_with_the_flop_counter():
    generator = make()
    for sizes in ({}, {"N": 1}, {"N": 3, "H": 40, "W": 33}):
        with FlopCounterMode(display=False) as counter:
            generator(*generator.example(sizes))
        assert macs(generator, sizes) * 2 == counter.get_total_flops()


def test_layers_by_name():
    found = layers(make(), (torch.randn(1, 3, 9, 9),))
    assert found[0] == Layer("conv", "conv2d", "conv2d", "conv.weight", 224, 17496, (1, 8, 9, 9))
    assert [layer.name for layer in found[:4]] == ["conv", "grouped", "up", "head"]
    # A transposed kernel is laid on every input position: 4 * 4 of them, 8 * 4 * 4 * 4 each.
    assert found[2].macs == 16 * 512
    assert found[2].shape == (1, 4, 8, 8)
    assert found[4].weight is None
    assert found[4].params == 0


def test_a_large_input_costs_nothing_to_count():
    generator = make()
    assert macs(generator, {"H": 20000, "W": 20000}) > 1e11
