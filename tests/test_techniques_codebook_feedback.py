"""Rounding with feedback: moments of patches by lags, and columns that make up for each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import leangan as lg
from leangan.errors import LeanganError
from leangan.techniques import moments as moments_module
from leangan.techniques.codebook import layers as codebook_layers
from leangan.techniques.columns import round_columns, to_levels
from leangan.techniques.moments import Correlations
from leangan.techniques.patches import Rows, phases, read_layer

DAMPING = 0.02


def traced(net, *shape):
    generator = lg.load(net.eval(), example_inputs=torch.rand(2, *shape))
    module = generator.module()
    (layer,) = [found for n in module.graph.nodes if (found := read_layer(module, n))]
    return layer


@pytest.mark.parametrize(
    ("net", "shape", "kernel"),
    [
        (nn.Conv2d(3, 4, (3, 5), padding=(2, 4), dilation=1), (3, 9, 11), (3, 5)),
        (nn.Conv2d(4, 6, 3, padding=4, dilation=2, groups=2), (4, 12, 10), (3, 3)),
        (nn.Conv1d(3, 4, 5, padding=12, dilation=3), (3, 30), (5,)),
        (nn.ConvTranspose1d(4, 6, 6, 2, 0, groups=2), (4, 10), (6,)),
        (nn.ConvTranspose2d(3, 2, 4, 2, 0), (3, 6, 5), (4, 4)),
        (nn.Conv2d(5, 3, 1), (5, 8, 8), (1, 1)),
        (nn.Linear(7, 3), (6, 7), ()),
    ],
)
def test_moments_are_those_of_all_patches(net, shape, kernel):
    """Where padding lets the kernel stand wherever it touches the input, lags are exact."""
    layer = traced(net, *shape)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    seen = Correlations(layer, kernel, [x], torch.Generator().manual_seed(0))
    for phase, places in seen.phases:
        rows = Rows(layer, kernel, x)
        everything = torch.arange(rows.count(phase))
        patches = rows.inputs(phase, everything, torch.zeros(shape[0] if kernel else 7))
        expected = patches.mT @ patches / seen.positions
        torch.testing.assert_close(seen.moments(places), expected, rtol=1e-4, atol=1e-4)
        assert float(torch.linalg.eigvalsh(seen.moments(places)).min()) > -1e-4
    axis = layer.channel_axis
    power = x.movedim(axis, 0).flatten(1).square().mean(1)
    torch.testing.assert_close(seen.power().float(), power)
    assert len(seen.phases) == len(phases(layer, kernel))


def test_large_inputs_are_seen_through_windows(monkeypatch):
    monkeypatch.setattr(moments_module, "_COST", 1e5)
    layer = traced(nn.Conv2d(2, 4, 3, padding=1), 2, 300, 300)
    x = F.avg_pool2d(torch.randn(1, 2, 302, 302, generator=torch.Generator().manual_seed(1)), 3, 1)
    parts = [x.contiguous()] * 2
    seen = Correlations(layer, (3, 3), parts, torch.Generator().manual_seed(0))
    assert seen.positions < 0.1 * sum(p[:, 0].numel() for p in parts)
    ((_, places),) = seen.phases
    patches = F.unfold(x, 3, padding=1)[0]
    expected = patches @ patches.T / patches.shape[1]
    difference = float((seen.moments(places) - expected).norm() / expected.norm())
    assert difference < 0.05


def problem(seed=0, rows=3, columns=70):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    mixed = torch.randn(columns, columns, generator=rng) / columns**0.5
    inputs = torch.randn(500, columns, generator=rng) @ (mixed + torch.eye(columns))
    levels = torch.tensor([[-1.5, -0.5, 0.25, 1.0]], dtype=torch.float64).repeat(rows, 1)
    return weight, inputs.T @ inputs / len(inputs), levels


def nearest(weight, levels):
    distance = (weight[..., None] - levels[:, None]).abs()
    return levels.gather(1, distance.argmin(-1))


def loss(weight, made, moments):
    error = weight - made
    return float(torch.einsum("ri,ij,rj->", error, moments.double(), error))


def by_the_book(weight, moments, levels):
    """GPTQ as it is written: round a column, then move the rest by the inverse of what is left."""
    h = moments.double() + DAMPING * moments.diagonal().mean() * torch.eye(len(moments))
    left, todo = weight.clone(), moments.diagonal().argsort(descending=True, stable=True).tolist()
    while todo:
        inverse = torch.linalg.inv(h[todo][:, todo])
        k, rest = todo[0], todo[1:]
        taken = nearest(left[:, [k]], levels)
        error = (left[:, k] - taken[:, 0]) / inverse[0, 0]
        left[:, k] = taken[:, 0]
        left[:, rest] -= error[:, None] * inverse[0, 1:]
        todo = rest
    return left


def test_columns_are_rounded_as_gptq_says():
    weight, moments, levels = problem()
    made = round_columns(weight, moments, to_levels(levels), DAMPING)
    assert torch.equal(made, by_the_book(weight, moments, levels))
    assert loss(weight, made, moments) < 0.8 * loss(weight, nearest(weight, levels), moments)


def test_independent_inputs_give_the_nearest_levels():
    weight, moments, levels = problem()
    made = round_columns(weight, torch.diag(moments.diagonal()), to_levels(levels), DAMPING)
    assert torch.equal(made, nearest(weight, levels))
    made = round_columns(weight, torch.zeros_like(moments), to_levels(levels), DAMPING)
    assert torch.equal(made, nearest(weight, levels))


def test_zeros_stay_in_rounded_columns():
    weight, moments, levels = problem()
    weight[:, ::3] = 0
    made = round_columns(weight, moments, to_levels(levels), DAMPING)
    assert not made[weight == 0].any()
    assert bool(made[weight != 0].all())


def test_alike_inputs_do_without_single_precision():
    """Columns that repeat each other leave single precision no positive pivot."""
    weight, moments, levels = problem(columns=8)
    moments = moments.repeat(2, 2) * 1e4
    doubled = torch.cat([weight, weight], 1)
    made = round_columns(doubled, moments, to_levels(levels), 1e-9)
    assert all(v in levels[0].tolist() for v in made.unique().tolist())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused(value):
    weight, moments, levels = problem(columns=8)
    with pytest.raises(LeanganError, match="not finite"):
        round_columns(weight, moments * value, to_levels(levels), DAMPING)


def test_samples_are_cut_to_what_is_affordable(monkeypatch):
    generator = lg.load(nn.Conv2d(3, 8, 3, padding=1), example_inputs=torch.rand(1, 3, 64, 64))
    samples = [(torch.rand(1, 3, 64, 64),) for _ in range(6)]
    one = 64 * 64 * 3 * 8 * 9
    for budget, count, side in [(6 * one, 6, 64), (3 * one, 6, 45), (one, 4, 32), (1, 2, 32)]:
        monkeypatch.setattr(codebook_layers, "_MACS", budget)
        found = codebook_layers.affordable(generator, samples)
        assert [x.shape for (x,) in found] == [(1, 3, side, side)] * count, budget


def test_every_kind_of_layer_ends_at_its_levels():
    torch.manual_seed(0)
    computed = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, 3, padding=1))
    net = nn.Sequential(nn.Conv1d(2, 6, 3, padding="same"), nn.ReLU(), computed, nn.Conv1d(6, 2, 1))
    generator = lg.load(net, example_inputs=torch.rand(1, 2, 16))
    data = [generator.example(seed=i) for i in range(3)]
    for levels, given in itertools.product(("k-means", "power-of-two"), (None, data)):
        made = lg.codebook(generator, 2, data=given, levels=levels)
        state = made.program.state_dict
        for name, weight in state.items():
            if weight.dim() > 2 and weight.shape[1] > 1:
                assert len(weight.unique()) <= 4, name
                if levels == "power-of-two":
                    exponents = weight[weight != 0].abs().log2()
                    assert torch.equal(exponents, exponents.round())
