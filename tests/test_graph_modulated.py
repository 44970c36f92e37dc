"""Modulated convolutions as StyleGAN2's ports spell them: plain ones with factors outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leangan as lg
from leangan.graph.modulated import take_modulation_out
from leangan.graph.rewrite import largest_difference


class Modulated(nn.Module):
    """(N, 4, H, W) and styles (N, 4) to (N, 6, ...)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))


class Official(Modulated):
    """stylegan2-ada-pytorch, fused_modconv, padding around."""

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        n = x.shape[0]
        w = self.weight.unsqueeze(0) * styles.reshape(n, 1, -1, 1, 1)
        dcoefs = (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
        w = w * dcoefs.reshape(n, -1, 1, 1, 1)
        x = x.reshape(1, -1, *x.shape[2:])
        y = F.conv2d(x, w.reshape(-1, 4, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, *y.shape[2:])


class Rosinality(Modulated):
    """A scale of its own, and a transposed convolution that doubles the size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.weight.detach()[None])

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        n, _, height, width = x.shape
        weight = 0.25 * self.weight * styles.view(n, 1, 4, 1, 1)
        demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
        weight = weight * demod.view(n, 6, 1, 1, 1)
        weight = weight.view(n, 6, 4, 3, 3).transpose(1, 2).reshape(n * 4, 6, 3, 3)
        out = F.conv_transpose2d(
            x.view(1, n * 4, height, width), weight, padding=0, stride=2, groups=n
        )
        _, _, height, width = out.shape
        return out.view(n, 6, height, width)


class Lucidrains(Modulated):
    """Styles around one, norms that keep their axes."""

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        b, _, h, w = x.shape
        weights = self.weight[None, :, :, :, :] * (styles[:, None, :, None, None] + 1)
        d = torch.rsqrt((weights**2).sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        weights = weights * d
        x = x.reshape(1, -1, h, w)
        _, _, *ws = weights.shape
        x = F.conv2d(x, weights.reshape(b * 6, *ws), padding=1, groups=b)
        return x.reshape(-1, 6, h, w)


class Filtered(Modulated):
    """What follows reads all images side by side."""

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        n, _, h, w = x.shape
        weight = self.weight[None] * styles[:, None, :, None, None]
        y = F.conv2d(x.reshape(1, -1, h, w), weight.reshape(-1, 4, 3, 3), padding=1, groups=n)
        return F.avg_pool2d(y, 3, 1, 1).reshape(n, 6, h, w)


class Attended(Modulated):
    """A kernel that depends on the image in another way, which factors cannot be taken out of."""

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        n, _, h, w = x.shape
        weight = self.weight[None] + styles[:, None, :, None, None]
        y = F.conv2d(x.reshape(1, -1, h, w), weight.reshape(-1, 4, 3, 3), padding=1, groups=n)
        return y.reshape(n, 6, h, w)


def loaded(kind):
    inputs = [torch.randn(2, 4, 9, 11), torch.randn(2, 4)]
    return lg.load(kind().eval(), example_inputs=inputs, task="arrays"), kind()


@pytest.mark.parametrize("kind", [Official, Rosinality, Lucidrains, Filtered])
def test_the_kernel_is_a_stored_tensor_again(kind):
    generator, module = loaded(kind)
    kernel = generator.program.state_dict["weight"]
    assert kernel.shape == ((4, 6, 3, 3) if kind is Rosinality else (6, 4, 3, 3))
    groups = [n.args[-1] for n in generator.program.graph.nodes if "conv" in str(n.target)]
    assert all(isinstance(g, int | list) for g in groups)
    for n, h, w in ((1, 9, 11), (3, 8, 5)):
        x, styles = torch.randn(n, 4, h, w), torch.randn(n, 4)
        assert torch.allclose(generator(x, styles), module(x, styles), atol=1e-4)
    made = [n.meta.get("val") for n in generator.program.graph.nodes if n.op == "call_function"]
    kernels = [v for v in made if isinstance(v, Tensor) and v.dim() == 5 and v.shape[-1] == 3]
    assert not kernels  # no image has one of its own


def test_other_kernels_are_left_alone():
    generator, module = loaded(Attended)
    assert generator.program.state_dict["weight"].shape == (1, 6, 4, 3, 3)
    x, styles = torch.randn(3, 4, 8, 5), torch.randn(3, 4)
    assert torch.allclose(generator(x, styles), module(x, styles), atol=1e-4)
    assert take_modulation_out(generator.module()) == 0


def test_weights_can_be_quantized_then():
    generator, _ = loaded(Official)
    made = lg.quantize(generator, [generator.example(seed=seed) for seed in range(3)])
    assert made.history[-1].settings["words"] == {"weight": "w8a8"}
    assert largest_difference(generator, made) < 0.05
