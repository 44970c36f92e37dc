"""Pruned weights back in the user's own class: equal, or refused with the line that forbids it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.sources.transplant import transplant


class Net(nn.Module):
    """Residual blocks, a grouped and a depthwise convolution, every norm, an up-convolution."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.slopes = nn.PReLU(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.inorm = nn.InstanceNorm2d(width, affine=True)
        self.plain = nn.InstanceNorm2d(width)
        self.gnorm = nn.GroupNorm(width, width)
        self.grouped = nn.Conv2d(width, inner, 1, groups=2)
        self.bn2 = nn.BatchNorm2d(inner)
        self.up = nn.ConvTranspose2d(inner, width, 4, 2, 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.slopes(self.bn1(self.head(x)))
        x = x + self.gnorm(self.plain(self.inorm(self.depthwise(x))))
        x = self.bn2(torch.relu(self.grouped(x)))
        return torch.tanh(self.tail(torch.relu(self.bn3(self.up(x)))))


class Head(nn.Module):
    """A linear layer viewed as maps, by number or by what the next layer takes."""

    def __init__(self, width: int, *, literal: int | None = None):
        super().__init__()
        self.literal = literal
        self.dense = nn.Linear(8, width * 16)
        self.bn = nn.BatchNorm1d(width * 16)
        self.up = nn.ConvTranspose2d(width, 3, 4, 2, 1)

    def forward(self, z):
        maps = self.bn(self.dense(z)).view(-1, self.literal or self.up.in_channels, 4, 4)
        return torch.tanh(self.up(maps))


def trained(module, seed=0):
    """With statistics and weights that are no identity."""
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None:
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2.0)
        for p in (getattr(m, "weight", None), getattr(m, "bias", None)):
            if isinstance(p, nn.Parameter) and p.dim() == 1:
                nn.init.normal_(p, 0.5, 0.5)
    return module.eval()


def loaded(module, *shape):
    return lg.load(module, example_inputs=shape, kinds={})


def test_every_layer_takes_the_narrower_weights_and_computes_the_same():
    generator = loaded(trained(Net(6, 4)), 1, 3, 16, 16)
    original = trained(Net(8, 6), seed=1)
    before = copy.deepcopy(original.state_dict())
    made = transplant(generator, original)
    (x,) = generator.example({"N": 2, "H": 20, "W": 12}, seed=3)
    assert torch.allclose(made(x), generator(x), atol=1e-5)
    assert (made.head.out_channels, made.depthwise.groups, made.up.in_channels) == (6, 6, 4)
    assert (made.grouped.in_channels, made.grouped.groups) == (6, 2)
    assert (made.slopes.num_parameters, made.gnorm.num_channels) == (6, 6)
    assert {made.bn1.num_features, made.inorm.num_features, made.plain.num_features} == {6}
    for key, value in original.state_dict().items():
        assert torch.equal(value, before[key])
    assert original.head.out_channels == 8


def test_a_folded_norm_is_an_identity_in_eval_mode():
    made = transplant(loaded(trained(Net(6, 4)), 1, 3, 16, 16), trained(Net(8, 6)))
    x = torch.randn(2, 6, 4, 4)
    assert torch.allclose(made.bn1(x), x, atol=1e-6)
    assert made.head.bias is not None
    y = torch.randn(2, 4, 4, 4)
    assert not torch.allclose(made.bn2(y), y, atol=1e-2), "bn2 stands behind a ReLU: not folded"


def test_the_copy_trains_on_and_saves_like_any_module(tmp_path):
    made = transplant(loaded(trained(Net(6, 4)), 1, 3, 16, 16), Net(8, 6).train())
    assert all(m.training for m in made.modules())
    made(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert made.head.weight.grad is not None
    torch.save(made.state_dict(), tmp_path / "w.pth")
    again = Net(6, 4)
    again.head.bias = nn.Parameter(torch.zeros(6))
    again.load_state_dict(torch.load(tmp_path / "w.pth"))


def test_sizes_that_the_code_takes_from_its_layers_follow():
    generator = loaded(trained(Head(3)), 1, 8)
    made = transplant(generator, trained(Head(6), seed=1))
    z = torch.randn(4, 8)
    assert torch.allclose(made(z), generator(z), atol=1e-5)
    assert (made.dense.out_features, made.bn.num_features) == (48, 48)


def test_sizes_written_as_numbers_are_refused_with_the_line():
    generator = loaded(trained(Head(3)), 1, 8)
    with pytest.raises(LeanganError, match=r"Head does not allow") as caught:
        transplant(generator, trained(Head(6, literal=6), seed=1))
    said = str(caught.value)
    assert "test_transplant.py" in said
    assert "up" in said
    assert "generator.pt2" in said


@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm, spectral_norm])
def test_reparameterized_layers_hold_the_product(wrap):
    def net(width):
        body = nn.Sequential(
            wrap(nn.Conv1d(2, width, 3, padding=1)), nn.LeakyReLU(0.1), nn.Conv1d(width, 1, 3)
        )
        body(torch.randn(1, 2, 16))  # lets the old hooks compute a weight with a history
        return body

    generator = loaded(net(3).eval(), 1, 2, 16)
    original = net(7)
    made = transplant(generator, original)
    (x,) = generator.example(seed=2)
    made.eval()
    assert torch.allclose(made(x), generator(x), atol=1e-5)
    assert set(made[0].state_dict()) == {"weight", "bias"}
    assert "weight" not in original[0]._parameters, "the original keeps its norm"


class Tied(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(4, width, bias=False)
        self.a = nn.Linear(width, width)
        self.b = nn.Linear(width, width)
        self.b.weight = self.a.weight
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        return self.out(torch.relu(self.b(torch.relu(self.a(self.into(x))))))


def test_ties_are_kept():
    generator = loaded(Tied(3), 1, 4)
    made = transplant(generator, Tied(6))
    assert made.a.weight is made.b.weight
    assert torch.allclose(made(torch.ones(2, 4)), generator(torch.ones(2, 4)), atol=1e-6)


class Scaled(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.into = nn.Linear(4, width)
        self.weight = nn.Parameter(torch.randn(2, width))
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return nn.functional.linear(torch.relu(self.into(x)), self.weight * self.gain)


def test_weights_that_the_code_computes_are_refused_by_name():
    with pytest.raises(LeanganError, match=r"Scaled does not compute.*gain"):
        transplant(loaded(Scaled(3), 1, 4), Scaled(6))


def test_another_network_is_refused():
    with pytest.raises(UsageError, match=r"Head has no head\.weight"):
        transplant(loaded(trained(Net(6, 4)), 1, 3, 16, 16), Head(3))


def test_a_quantized_generator_is_refused():
    generator = loaded(trained(Net(4, 4)), 1, 3, 16, 16)
    calibration = lg.calibrate(generator, [generator.example()])
    with pytest.raises(UsageError, match="quantized"):
        transplant(lg.quantize(generator, calibration), Net(4, 4))


def test_half_precision_stays_half():
    generator = loaded(trained(Head(3)), 1, 8)
    made = transplant(generator, Head(6).half())
    assert made.dense.weight.dtype == torch.float16
