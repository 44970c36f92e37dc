"""Rewrites to forms that plain converters know: the same numbers, in fewer kinds of operators."""

import pytest
import torch
from torch import nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.operators import aten, is_call, read_convolution
from leangan.graph.plain_transposed import plain_transposed
from leangan.graph.spelled_norms import spell_norms
from leangan.techniques.quantize_linear import quantize


def make(module, *shape):
    free = [0, *range(2, len(shape))]
    sizes = tuple(None if a in free else s for a, s in enumerate(shape))
    port = Port("x", None, {3: "NCT", 4: "NCHW"}[len(shape)], sizes, shape)
    program = capture(module.eval(), (torch.randn(shape),), [free])
    return Generator(program, Signature((port,), ()))


def same(a, b, x):
    for p, q in zip(a.outputs(x), b.outputs(x), strict=True):
        assert p.shape == q.shape
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def convolutions(generator):
    found = (read_convolution(n) for n in generator.program.graph.nodes)
    return [conv for conv in found if conv]


SHAPES = [  # kernel, stride, padding, output_padding, dilation
    (3, 2, 1, 1, 1),
    (3, 2, 1, 0, 1),
    (3, 1, 1, 0, 1),
    (3, 1, 1, 0, 2),
    (1, 2, 0, 1, 1),
    (4, 2, 2, 0, 1),
    (5, 3, 1, 2, 1),
    (3, 3, 1, 1, 2),
    (7, 4, 3, 3, 1),
]


class Many(nn.Module):
    def __init__(self, axes, groups):
        super().__init__()
        kind = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
        self.layers = nn.ModuleList(kind(4, 6, *s[:4], groups, True, s[4]) for s in SHAPES)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_is_plain(axes, groups):
    generator = make(Many(axes, groups), *(2, 4, 7, 9)[: 2 + axes])
    plain = plain_transposed(generator)
    same(generator, plain, torch.randn(3, 4, *(5, 8)[:axes]))
    left = convolutions(plain)
    assert len(left) == len(SHAPES)
    assert sum(not conv.transposed for conv in left) == (2 if groups == 1 else 0)
    for conv in left:
        if conv.transposed and set(conv.dilation) == {1}:
            size = int(conv.weight.meta["val"].shape[-1])
            assert not any(conv.output_padding)
            assert conv.padding[-1] in (0, (size - conv.stride[-1]) / 2)


def test_plain_is_left_alone():
    generator = make(nn.ConvTranspose2d(4, 6, 4, 2, 1), 2, 4, 7, 9)
    assert plain_transposed(generator) is generator


def test_codes_are_padded():
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), nn.ConvTranspose2d(6, 4, 3, 1, 1)
    )
    generator = make(net, 2, 4, 7, 9)
    generator = quantize(generator, [(torch.randn(1, 4, 8, 8),) for _ in range(3)])
    plain = plain_transposed(generator)
    same(generator, plain, torch.randn(3, 4, 5, 8))
    padded, turned = convolutions(plain)
    assert padded.transposed
    assert not any(padded.output_padding)
    assert not turned.transposed
    assert plain.bytes == generator.bytes + 7 * 4 * 6, "codes are still codes"


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
def test_norms_are_spelled(affine, axes):
    kind = nn.InstanceNorm1d if axes == 1 else nn.InstanceNorm2d
    norm = kind(5, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    generator = make(norm, *(2, 5, 7, 9)[: 2 + axes])
    spelled = spell_norms(generator)
    same(generator, spelled, torch.randn(3, 5, *(6, 8)[:axes]) + 3)
    assert not any(is_call(n, aten.instance_norm) for n in spelled.program.graph.nodes)
