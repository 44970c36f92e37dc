"""Trained levels of codebooks: nearer to the original, as few as before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.errors import UsageError
from leangan.techniques.codebook import finetune_centroids


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh()
    )
    return lg.load(layers.eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")


@pytest.fixture(scope="module")
def data(net):
    return [net.example({"H": 16, "W": 16}, seed=seed) for seed in range(4)]


def error(made, net):
    inputs = net.example({"N": 2, "H": 24, "W": 24}, seed=99)
    return float((made(*inputs) - net(*inputs)).square().mean())


def test_levels_move_towards_the_original_and_stay_few(net, data):
    few = lg.codebook(lg.prune_weights(net, 0.3), 3, per="tensor")
    trained = finetune_centroids(few, net, data, steps=60)
    assert error(trained, net) < error(few, net)
    seen = trained.history[-1].measured
    assert seen["mse_after"] < seen["mse_before"]
    for name, weight in trained.program.state_dict.items():
        if weight.dim() == 4:
            before = few.program.state_dict[name]
            assert len(weight.unique()) <= len(before.unique())
            assert not weight[before == 0].any()


def test_same_seed_same_levels(net, data):
    few = lg.codebook(net, 2, per="tensor")
    a, b = (finetune_centroids(few, net, data, steps=5, seed=3) for _ in range(2))
    states = a.program.state_dict, b.program.state_dict
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_of_many_values_are_refused(net, data):
    with pytest.raises(UsageError, match="make codebooks first"):
        finetune_centroids(net, net, data)


def test_no_data_is_refused(net):
    with pytest.raises(UsageError, match="empty"):
        finetune_centroids(lg.codebook(net, 2, per="tensor"), net, [])
