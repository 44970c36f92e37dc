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
from leangan.techniques.lighten import drop_blocks, freeze_norms, low_rank, separable, spatial
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
