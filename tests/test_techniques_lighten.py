"""Lighter students out of the teacher's graph: cheaper, as near as they can be, trainable."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.graph.cost import macs
from leangan.search.students import make_student
from leangan.tasks.base import Sample
from leangan.techniques.lighten import (
    drop_attention,
    drop_blocks,
    freeze_norms,
    grouped,
    low_rank,
    resize,
    separable,
    spatial,
    stacked,
    tucker,
)
from leangan.training.student import Student


class Block(nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.a = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.b.weight.data.mul_(strength)
        self.b.bias.data.mul_(strength)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.norm(self.a(F.pad(x, (0, 0, 0, 0), "constant")))))


class Net(nn.Module):
    """A head, three blocks of which the second does nearly nothing, a tail; a long skip."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(1.0), Block(1e-3), Block(1.0))
        self.tail = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return self.tail(y + self.blocks(y))


@pytest.fixture(scope="module")
def net():
    return lg.load(Net().eval(), example_inputs=[torch.rand(1, 3, 24, 24)], task="arrays")


@pytest.fixture(scope="module")
def samples(net):
    return [net.example({"H": 24, "W": 24}, seed=seed) for seed in range(3)]


def error(a, b, samples):
    return max(float((a(*x) - b(*x)).abs().max()) for x in samples)


def test_the_block_that_does_least_goes_first(net, samples):
    made = drop_blocks(net, 0.75, samples)
    assert macs(made) < 0.75 * macs(net)
    assert len(made.history[-1].measured["dropped"]) == 1
    assert error(made, net, samples) < 0.05
    assert not any("blocks.1." in name for name in made.program.state_dict)
    shorter = drop_blocks(net, 0.5, samples)
    assert len(shorter.history[-1].measured["dropped"]) == 2


def test_more_blocks_than_there_are_cannot_go(net, samples):
    with pytest.raises(LeanganError, match="no more residual blocks"):
        drop_blocks(net, 0.01, samples)
    plain = lg.load(nn.Conv2d(3, 3, 3), example_inputs=torch.rand(1, 3, 16, 16))
    with pytest.raises(LeanganError, match="has no residual blocks"):
        drop_blocks(plain, 0.5, samples)


def test_a_kernel_of_low_rank_is_split_exactly():
    torch.manual_seed(1)
    conv = nn.Conv2d(16, 16, 3, padding=2, dilation=2, stride=2)
    full = torch.randn(16, 3) @ torch.randn(3, 16 * 9)
    conv.weight.data = full.reshape(16, 16, 3, 3)
    net = lg.load(conv.eval(), example_inputs=torch.rand(1, 16, 24, 24))
    made = low_rank(net, 0.25)
    x = torch.randn(2, 16, 20, 28)
    torch.testing.assert_close(made(x), net(x), atol=1e-4, rtol=1e-4)
    assert macs(made) <= 0.25 * macs(net)


def test_more_rank_is_nearer(net, samples):
    errors = [error(low_rank(net, share), net, samples) for share in (0.2, 0.5, 0.9)]
    assert errors[2] < 0.8 * min(errors[:2])


def smooth(seed):
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=draw)
    return (F.interpolate(small, size=(64, 64), mode="bicubic"),)


@pytest.mark.parametrize(("split", "share"), [(grouped, 0.5), (tucker, 0.4)])
def test_what_is_fitted_to_data_is_nearer(net, split, share):
    probes = [smooth(seed) for seed in range(12)]
    errors = []
    for samples in ((), probes[:8]):
        made = split(net, share, samples)
        with torch.no_grad():
            errors.append(sum(float((made(*x) - net(*x)).square().mean()) for x in probes[8:]))
    assert errors[1] < 0.5 * errors[0]
    assert all(made.program.state_dict[k].requires_grad for k in made.program.state_dict)


def test_a_large_kernel_of_few_columns_is_split_exactly():
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 9, padding=4, stride=(2, 1)), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 3, (5, 7), padding=(2, 6), dilation=(1, 2)),
    )  # fmt: skip
    for conv, rank in ((layers[0], 4), (layers[3], 3)):
        outs, ins, high, wide = conv.weight.shape
        columns, rows = torch.randn(rank, ins, high), torch.randn(rank, outs, wide)
        conv.weight.data = torch.einsum("rih,row->oihw", columns, rows)
    net = lg.load(layers.eval(), example_inputs=torch.rand(1, 3, 24, 24))
    made = spatial(net, 0.5)
    x = torch.randn(2, 3, 20, 28)
    torch.testing.assert_close(made(x), net(x), atol=2e-3, rtol=1e-4)
    kernels = [tuple(w.shape[2:]) for w in made.program.state_dict.values() if w.dim() == 4]
    assert sorted(kernels) == [(1, 7), (1, 9), (3, 3), (5, 1), (9, 1)]
    assert macs(made) < macs(net)


def test_a_separable_kernel_is_split_exactly():
    torch.manual_seed(2)
    conv = nn.Conv2d(8, 12, 3, padding=1)
    depth, point = torch.randn(8, 3, 3), torch.randn(12, 8)
    conv.weight.data = point[:, :, None, None] * depth[None]
    net = lg.load(conv.eval(), example_inputs=torch.rand(1, 8, 24, 24))
    made = separable(net)
    x = torch.randn(2, 8, 20, 28)
    torch.testing.assert_close(made(x), net(x), atol=1e-4, rtol=1e-4)
    assert macs(made) < 0.3 * macs(net)


def test_a_kernel_of_low_rank_on_both_sides_is_split_exactly():
    torch.manual_seed(5)
    conv = nn.Conv2d(12, 40, 3, padding=2, dilation=2, stride=(1, 2))
    core, left, right = torch.randn(8, 3, 3, 3), torch.randn(40, 8), torch.randn(12, 3)
    conv.weight.data = torch.einsum("srkl,os,ir->oikl", core, left, right)
    net = lg.load(conv.eval(), example_inputs=torch.rand(1, 12, 24, 24))
    made = tucker(net, 0.2)
    x = torch.randn(2, 12, 20, 28)
    torch.testing.assert_close(made(x), net(x), atol=1e-3, rtol=1e-3)
    assert macs(made) < 0.25 * macs(net)  # the first part runs where the stride leaves out


def test_a_kernel_of_groups_is_split_exactly():
    torch.manual_seed(6)
    conv = nn.Conv1d(12, 18, 5, padding=4, dilation=2)
    inner, point = torch.randn(4, 3, 3, 5), torch.randn(18, 4, 3)
    conv.weight.data = torch.einsum("gmik,ogm->ogik", inner, point).reshape(18, 12, 5)
    net = lg.load(conv.eval(), example_inputs=torch.rand(1, 12, 24))
    made = grouped(net, 0.4)
    x = torch.randn(2, 12, 31)
    torch.testing.assert_close(made(x), net(x), atol=1e-4, rtol=1e-4)
    assert macs(made) <= 0.4 * macs(net)
    kernels = sorted(tuple(w.shape) for w in made.program.state_dict.values() if w.dim() == 3)
    assert kernels == [(12, 3, 5), (18, 12, 1)]


def test_a_large_kernel_that_is_a_stack_of_small_ones_is_found_again():
    torch.manual_seed(7)
    small = [nn.Conv2d(a, b, 3, bias=False) for a, b in ((3, 4), (4, 4), (4, 16))]
    conv = nn.Conv2d(3, 16, 7, padding=3, stride=2)
    x = torch.randn(2, 3, 21, 30)
    impulses = torch.zeros(3, 3, 13, 13)
    for channel in range(3):
        impulses[channel, channel, 6, 6] = 1
    with torch.no_grad():
        conv.weight.data = nn.Sequential(*small)(impulses).flip(2, 3).transpose(0, 1)
    net = lg.load(conv.eval(), example_inputs=torch.rand(1, 3, 24, 24))
    made = stacked(net, 0.5)
    error = (made(x) - net(x)).square().mean() / net(x).square().mean()
    assert float(error) < 1e-3
    assert [tuple(w.shape[2:]) for w in made.program.state_dict.values() if w.dim() == 4] == [
        (3, 3)
    ] * 3
    with pytest.raises(LeanganError, match="no convolution that stacked makes cheaper"):
        stacked(made, 0.5)


class Attends(nn.Module):
    """A block of self-attention, gated channels, and an instance norm that is spelled out."""

    def __init__(self, attention=True, gate=True):
        super().__init__()
        torch.manual_seed(8)
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.maps = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1)
        self.attention, self.gate = attention, gate

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        if self.attention:
            a, b, c = (m(y).flatten(2) for m in self.maps)
            y = y + (c @ (a.transpose(1, 2) @ b).softmax(1)).view_as(y)
        mean = y.mean((2, 3), keepdim=True)
        y = (y - mean) / ((y - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        if self.gate:
            averages = F.relu(y).mean((2, 3), keepdim=True)
            scale, shift = self.excite(F.relu(self.squeeze(averages))).chunk(2, 1)
            y = y * torch.sigmoid(scale) + shift
        return self.tail(y)


def test_attention_goes_and_norms_stay():
    x = torch.rand(1, 3, 16, 20)
    whole = lg.load(Attends().eval(), example_inputs=[torch.rand(1, 3, 16, 16)])
    made = drop_attention(whole, [(x,)])
    step = made.history[-1].measured
    assert len(step["blocks"]) == 1
    assert len(step["gates"]) == 1
    assert not any("softmax" in str(n.target) for n in made.program.graph.nodes)
    plain = Attends(attention=False).eval()
    torch.testing.assert_close(made(x), plain(x), atol=1e-4, rtol=1e-4)  # frozen on that picture
    other = torch.rand(1, 3, 16, 16) ** 3
    assert float((made(other) - plain(other)).detach().abs().max()) > 1e-3
    bare = lg.load(Attends(attention=False, gate=False).eval(), example_inputs=[x])
    with pytest.raises(LeanganError, match="no residual block of self-attention"):
        drop_attention(bare, [(x,)])
    with pytest.raises(UsageError, match="there is none"):
        drop_attention(whole, [])


def test_frozen_norms_are_right_on_the_picture_they_were_frozen_on(net, samples):
    made = freeze_norms(net, samples[:1])
    assert error(made, net, samples[:1]) < 1e-4
    assert error(made, net, samples[1:]) > 1e-4
    targets = {str(n.target) for n in made.program.graph.nodes}
    assert not any("norm" in t for t in targets)


@pytest.mark.parametrize(
    "spec", ["shallow:0.7+low-rank:0.5", "separable", "plain-norms+narrow:0.6"]
)
def test_students_are_made_and_can_be_trained(net, samples, spec):
    given = [Sample(str(i), x) for i, x in enumerate(samples)]
    made = make_student(spec, net, given, 0, lambda *_: None)
    assert made.signature.inputs == net.signature.inputs
    assert macs(made) < 0.8 * macs(net) or spec.startswith("plain")
    student = Student(made)
    loss = (student(*samples[0])[0] - net(*samples[0])).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)


def test_small_kernels_are_not_split_into_columns_and_rows(net):
    with pytest.raises(LeanganError, match="no convolution that spatial makes cheaper"):
        spatial(net, 0.5)


def test_wrong_shares_are_refused(net, samples):
    for wrong in (lambda: low_rank(net, 0), lambda: drop_blocks(net, 1.0, samples),
                  lambda: drop_blocks(net, 0.5, []), lambda: freeze_norms(net, []),
                  lambda: spatial(net, 2)):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()


class Rises(nn.Module):
    """What resizes before plain convolutions, as the transposed ones that are the same."""

    def __init__(self, kernel=(3, 5), rates=(2, 3), groups=2):
        super().__init__()
        torch.manual_seed(4)
        self.rates = rates
        self.plain = nn.Conv2d(4, 6, kernel, padding=[k // 2 for k in kernel], groups=groups)
        sums = self.plain.weight.data.flip(2, 3)
        sums = F.conv2d(
            F.pad(sums.flatten(0, 1)[:, None], [n - 1 for n in rates[::-1] for _ in range(2)]),
            torch.ones(1, 1, *rates),
        ).reshape(6, 4 // groups, *(k + n - 1 for k, n in zip(kernel, rates, strict=True)))
        self.up = nn.ConvTranspose2d(
            4, 6, tuple(sums.shape[2:]), rates, [k // 2 for k in kernel], groups=groups
        )
        sums = sums.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        self.up.weight.data, self.up.bias.data = sums, self.plain.bias.data

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


def test_a_transposed_kernel_that_is_a_resized_one_is_found_exactly():
    rises = Rises().eval()
    net = lg.load(rises, example_inputs=torch.rand(1, 4, 24, 24))
    made = resize(net)
    x = torch.randn(2, 4, 7, 10)
    plain = rises.plain(F.interpolate(x, scale_factor=tuple(map(float, rises.rates))))
    torch.testing.assert_close(made(x), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made(x), net(x), atol=1e-5, rtol=1e-4)
    (layer,) = made.history[-1].measured["layers"].values()
    assert layer["kernel"] == [3, 5]
    assert layer["error"] < 1e-9
    assert not any("transpose" in str(n.target) for n in made.program.graph.nodes)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more", "becomes"),
    [(4, 2, 1, 0, 3), (3, 2, 1, 1, 3), (16, 8, 4, 0, 9), (2, 2, 0, 0, 1), (6, 2, 2, 0, 5)],
)
def test_no_plain_kernel_is_nearer_than_what_is_found(kernel, stride, padding, more, becomes):
    torch.manual_seed(kernel)
    up = nn.ConvTranspose1d(2, 3, kernel, stride, padding, more, bias=False)
    net = lg.load(up.eval(), example_inputs=torch.rand(1, 2, 24))
    made = resize(net)
    (path,) = made.program.state_dict
    assert made.program.state_dict[path].shape == (3, 2, becomes)
    # Of white noise, away from the borders, the error is that of the kernels.
    x = torch.randn(4, 2, 400)
    module = made.module()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    error = (module(x) - net(x)).square()[..., 64:-64].mean()
    (slope,) = torch.autograd.grad(error, list(module.parameters()))
    missed = made.history[-1].measured["layers"]
    share = float(error.detach() / net(x).square()[..., 64:-64].mean())
    assert share == pytest.approx(next(iter(missed.values()))["error"], abs=0.05)
    assert float(slope.abs().max()) < 0.05


def test_what_does_not_rise_by_its_stride_is_not_resized(net):
    for layer in (nn.ConvTranspose2d(3, 8, 4, 2), nn.ConvTranspose2d(3, 8, 3, 1)):
        other = lg.load(layer.eval(), example_inputs=torch.rand(1, 3, 16, 16))
        with pytest.raises(LeanganError, match="nothing to resize"):
            resize(other)
