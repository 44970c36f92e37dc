"""Trained levels of codebooks: nearer to the original, as few as before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.techniques.codebook import finetune_centroids
from leangan.techniques.codebook.finetune import find_books


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


@pytest.mark.parametrize("bits", [2, 6])
def test_which_weight_takes_which_level_stays_and_so_does_the_size(net, data, bits, tmp_path):
    few = lg.codebook(net, bits, data=data)
    trained = finetune_centroids(few, net, data, steps=20, lr=2e-3)
    after = trained.program.state_dict
    for book in find_books(few, few.module()):
        moved = after[book.path].detach()
        assert not torch.equal(moved, few.program.state_dict[book.path])
        for level in book.indices.unique():
            assert len(moved[book.indices == level].unique()) == 1
        assert book.halves == (bits == 2) == torch.equal(moved, moved.bfloat16().float())
    size = few.save(tmp_path / "few.pt2").stat().st_size
    assert trained.save(tmp_path / "trained.pt2").stat().st_size < size + 600
    opened = lg.load(tmp_path / "trained.pt2").program.state_dict
    assert all(torch.equal(opened[name], after[name]) for name in after)


def test_gradients_are_summed_over_the_weights_that_share_a_level(net):
    few = lg.codebook(net, 2, per="tensor")
    book = find_books(few, few.module())[0]
    change = torch.zeros_like(book.levels).requires_grad_()
    slope = torch.randn(book.indices.shape, generator=torch.Generator().manual_seed(1))
    (book.weight(change) * slope).sum().backward()
    expected = torch.stack([slope[book.indices == i].sum() for i in range(len(book.levels))])
    torch.testing.assert_close(change.grad, expected * book.scale)
    assert torch.equal(book.stored(change), few.program.state_dict[book.path])


def test_a_rate_that_destroys_leaves_the_generator_as_it_was(net, data):
    few = lg.codebook(net, 4, data=data)
    trained = finetune_centroids(few, net, data, steps=3, lr=1.0)
    for name, weight in few.program.state_dict.items():
        assert torch.equal(weight, trained.program.state_dict[name])
    seen = trained.history[-1].measured
    assert seen["mse_after"] == seen["mse_before"] > 0


def test_same_levels_whatever_the_threads(net, data):
    few = lg.codebook(net, 3)
    threads, found = torch.get_num_threads(), []
    try:
        for count, seed in ((1, 0), (2, 0), (1, 1)):
            torch.set_num_threads(count)
            trained = finetune_centroids(few, net, data, steps=4, lr=1e-3, seed=seed)
            found.append(trained.program.state_dict["0.weight"])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_wrong_settings_are_refused(net, data, wrong):
    with pytest.raises(UsageError, match="1 step"):
        finetune_centroids(lg.codebook(net, 2), net, data, **wrong)


def test_an_original_of_other_outputs_is_refused(net, data):
    other = lg.load(nn.Conv2d(3, 3, 3), example_inputs=torch.rand(1, 3, 16, 16))
    with pytest.raises(LeanganError, match="same outputs"):
        finetune_centroids(lg.codebook(net, 2, per="tensor"), other, data)


def test_weights_of_many_values_are_refused(net, data):
    with pytest.raises(UsageError, match="make codebooks first"):
        finetune_centroids(net, net, data)


def test_no_data_is_refused(net):
    with pytest.raises(UsageError, match="empty"):
        finetune_centroids(lg.codebook(net, 2, per="tensor"), net, [])
