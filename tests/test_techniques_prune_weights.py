"""Zeros are exactly as many as asked for, stay where they are, and leave no mask behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.techniques.prune_weights import cubic_sparsity, prune_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2 * 4 * 4)
        self.up = nn.ConvTranspose2d(2, 6, 4, 2, 1)
        self.mid = nn.Conv2d(6, 9, 3, padding=1)
        self.last = nn.Conv2d(9, 3, 3, padding=1)

    def forward(self, z):
        return self.last(torch.relu(self.mid(self.up(self.fc(z).view(-1, 2, 4, 4)))))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return lg.load(Net(), example_inputs=torch.randn(2, 6))


def weights(generator):
    return {n: p for n, p in generator.program.state_dict.items() if n.endswith("weight")}


def flat(generator):
    return torch.cat([p.flatten() for p in weights(generator).values()])


def zeros(tensor):
    return int((tensor == 0).sum())


@pytest.mark.parametrize("by", ["magnitude", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_the_share_is_zero(generator, by, scope):
    pruned = prune_weights(generator, 0.37, by=by, scope=scope)
    if scope == "global":
        assert zeros(flat(pruned)) == round(0.37 * flat(generator).numel())
    else:
        for weight in weights(pruned).values():
            assert zeros(weight) == round(0.37 * weight.numel())
    for name, old in generator.program.state_dict.items():
        new = pruned.program.state_dict[name]
        if name.endswith("bias"):
            assert torch.equal(old, new)
        else:
            assert torch.equal(new[new != 0], old[new != 0])


def test_the_original_is_left_alone_and_no_mask_is_stored(generator):
    before = flat(generator).clone()
    pruned = prune_weights(generator, 0.5)
    assert torch.equal(flat(generator), before)
    assert list(pruned.program.state_dict) == list(generator.program.state_dict)
    assert pruned.bytes == generator.bytes


def test_magnitude_removes_the_smallest(generator):
    pruned, old = flat(prune_weights(generator, 0.5)), flat(generator)
    assert old[pruned == 0].abs().max() <= old[pruned != 0].abs().min()


def test_no_negative_zeros(generator):
    pruned = flat(prune_weights(generator, 0.5))
    assert not torch.signbit(pruned[pruned == 0]).any()


def test_the_output_is_that_of_the_zeroed_weights(generator):
    pruned = prune_weights(generator, 0.5)
    module = generator.module()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(pruned.program.state_dict[name])
    z = torch.randn(3, 6)
    assert torch.allclose(module(z), pruned(z), atol=1e-6)
    assert not torch.allclose(generator(z), pruned(z), atol=1e-3)


@pytest.mark.parametrize("by", ["magnitude", "random"])
def test_more_pruning_keeps_the_zeros(generator, by):
    once = prune_weights(generator, 0.3, by=by, seed=1)
    twice = prune_weights(once, 0.6, by=by, seed=2)
    assert bool((flat(twice)[flat(once) == 0] == 0).all())
    assert zeros(flat(twice)) == round(0.6 * flat(generator).numel())


def test_two_of_four_along_the_input_axis(generator):
    pruned = weights(prune_weights(generator, pattern="2:4"))
    conv = pruned["mid.weight"]  # 6 inputs: a block of four, and two that are left over
    assert bool(((conv[:, :4] != 0).sum(1) == 2).all())
    assert bool(((conv[:, 4:] != 0).sum(1) == 1).all())
    linear = pruned["fc.weight"]
    assert bool(((linear[:, :4] != 0).sum(1) == 2).all())
    up = pruned["up.weight"]  # (in, out, k, k): two inputs, of which one stays
    assert bool(((up != 0).sum(0) == 1).all())
    old = weights(generator)["mid.weight"][:, :4].abs()
    least_kept = old.masked_fill(conv[:, :4] == 0, torch.inf).amin(1)
    assert bool((old.masked_fill(conv[:, :4] != 0, 0).amax(1) <= least_kept).all())


def test_only_some_layers(generator):
    linear = weights(prune_weights(generator, 0.5, by="random", only=("linear",)))
    assert zeros(linear["fc.weight"]) == linear["fc.weight"].numel() // 2
    assert zeros(linear["mid.weight"]) == 0
    named = weights(prune_weights(generator, 0.5, only=("mid", "la*")))
    assert zeros(named["fc.weight"]) == zeros(named["up.weight"]) == 0
    assert zeros(named["mid.weight"]) + zeros(named["last.weight"]) > 0


def test_same_seed_same_weights(generator):
    a, b, c = (prune_weights(generator, 0.5, by="random", seed=s) for s in (3, 3, 4))
    assert torch.equal(flat(a), flat(b))
    assert not torch.equal(flat(a), flat(c))


def test_history_says_what_was_done(generator):
    step = prune_weights(generator, 0.5).history[-1]
    assert step.name == "prune_weights"
    assert step.settings["amount"] == 0.5
    assert step.measured["share"] == pytest.approx(0.5, abs=1e-3)
    assert sum(step.measured["zeros"].values()) == round(0.5 * step.measured["weights"])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(self.first(x))))


def test_a_shared_weight_stays_one(tmp_path):
    torch.manual_seed(0)
    pruned = prune_weights(lg.load(Tied(), example_inputs=torch.randn(2, 4)), 0.5)
    assert pruned.history[-1].measured["weights"] == 24 + 36
    opened = lg.load(pruned.save(tmp_path / "t.pt2"))
    assert opened.params == pruned.params == 24 + 36 + 18
    x = torch.randn(3, 4)
    assert torch.equal(opened(x), pruned(x))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "share of zeros"),
        ({"amount": 0.0}, "share of zeros"),
        ({"amount": 1.0}, "share of zeros"),
        ({"amount": 0.5, "by": "taste"}, "magnitude or random"),
        ({"amount": 0.5, "scope": "room"}, "global or layer"),
        ({"pattern": "4:2"}, "N:M"),
        ({"pattern": "two"}, "N:M"),
        ({"amount": 0.7, "pattern": "2:4"}, "0.5"),
        ({"amount": 0.5, "only": ("nothing",)}, "no layer 'nothing'"),
    ],
)
def test_what_makes_no_sense_is_refused(generator, settings, says):
    with pytest.raises(UsageError, match=says):
        prune_weights(generator, **settings)


def test_nothing_to_prune_is_said():
    generator = lg.load(nn.Sequential(nn.ReLU()), example_inputs=torch.randn(2, 4))
    with pytest.raises(LeanganError, match="no convolution or linear layer"):
        prune_weights(generator, 0.5)


def test_quantized_generators_are_refused_with_the_right_order(generator):
    samples = [(torch.randn(1, 6),) for _ in range(3)]
    quantized = lg.quantize(generator, lg.calibrate(generator, samples))
    with pytest.raises(UsageError, match="Prune weights first"):
        prune_weights(quantized, 0.5)


def test_cubic_schedule():
    at = [cubic_sparsity(s, 10, 20, 0.1, 0.9) for s in (0, 10, 15, 20, 99)]
    assert at[:2] == [pytest.approx(0.1)] * 2
    assert at[2] == pytest.approx(0.9 - 0.8 / 8)
    assert at[3:] == [pytest.approx(0.9)] * 2
    with pytest.raises(UsageError):
        cubic_sparsity(0, 5, 5, 0, 0.5)
