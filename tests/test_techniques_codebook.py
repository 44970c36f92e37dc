"""Codebooks: the best levels, the same bytes, zeros that stay, and files that are really small."""

from __future__ import annotations

import os
import zipfile

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.techniques.codebook.kmeans import INITS, kmeans, nearest, powers_of_two


class Net(nn.Module):
    """Convolutions, one of them used twice, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv2d(3, 32, 3, padding=1)
        self.mid = nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 4, 2, 1)
        self.out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        x = self.inp(x).relu()
        x = self.mid(self.mid(x).relu())
        return self.out(self.up(x).relu())


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return lg.load(Net().eval(), example_inputs=torch.rand(1, 3, 16, 16))


@pytest.fixture(scope="module")
def data(generator):
    return [generator.example(seed=i) for i in range(4)]


def snr(generator, made, seed=9):
    inputs = generator.example(seed=seed)
    a, b = generator.outputs(*inputs)[0], made.outputs(*inputs)[0]
    return float(10 * torch.log10(a.square().sum() / (a - b).square().sum()))


def best_by_trying_all(values, weights, levels):
    """Optimal one-dimensional clusters by dynamic programming, to compare with."""
    values, order = values.sort()
    weights = weights[order]
    n = len(values)

    def cost(i, j):
        w, v = weights[i:j], values[i:j]
        mean = (w * v).sum() / w.sum()
        return float((w * (v - mean).square()).sum())

    best = [0.0] + [float("inf")] * n
    for _ in range(levels):
        best = [0.0] + [min(best[i] + cost(i, j) for i in range(j)) for j in range(1, n + 1)]
    return best[n]


def error(rows, weights, levels):
    return (weights * (rows - levels.gather(1, nearest(rows, levels))).square()).sum(1)


def test_kmeans_is_near_the_optimum_and_every_start_ends_at_fixed_points():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 40, generator=rng, dtype=torch.float64)
    weights = torch.rand(3, 40, generator=rng, dtype=torch.float64) + 0.1
    found = error(rows, weights, kmeans(rows, weights, 4))
    for row in range(3):
        best = best_by_trying_all(rows[row], weights[row], 4)
        assert best - 1e-9 <= float(found[row]) <= 1.1 * best
    for init in INITS:
        levels = kmeans(rows, weights, 4, init=init)
        taken = nearest(rows, levels)
        for row in range(3):
            for level in taken[row].unique():
                inside = taken[row] == level
                w = weights[row][inside]
                mean = (w * rows[row][inside]).sum() / w.sum()
                assert mean == pytest.approx(float(levels[row, level]))


def test_heavy_values_draw_the_levels():
    rows = torch.tensor([[0.0, 0.1, 0.2, 5.0, 5.1, 9.0]])
    light = torch.tensor([[1.0, 1, 1, 1, 1, 0]])
    levels = kmeans(rows, light, 2)
    assert levels[0].tolist() == pytest.approx([0.1, 5.05], abs=1e-6)


def test_few_values_are_kept_exactly():
    rows = torch.tensor([[0.5, -1.0, 0.5, 2.0, 2.0, -1.0]])
    levels = kmeans(rows, torch.ones_like(rows), 4)
    assert torch.equal(levels.gather(1, nearest(rows, levels)), rows.double())


def test_powers_of_two_are_that():
    levels = powers_of_two(torch.randn(2, 100), torch.ones(2, 100), 16)
    assert levels.shape == (2, 16)
    nonzero = levels[levels != 0].abs().log2()
    assert torch.equal(nonzero, nonzero.round())
    assert (levels == 0).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_each_weight_has_few_values(generator, bits):
    made = lg.codebook(generator, bits, per="tensor")
    for name, weight in made.program.state_dict.items():
        if weight.dim() > 1:
            assert len(weight.unique()) <= 2**bits, name
        else:
            assert torch.equal(weight, generator.program.state_dict[name])


def test_more_bits_are_better_and_groups_beat_one_codebook(generator):
    assert snr(generator, lg.codebook(generator, 3)) < snr(generator, lg.codebook(generator, 4))
    assert snr(generator, lg.codebook(generator, 4)) < snr(generator, lg.codebook(generator, 8))
    assert snr(generator, lg.codebook(generator, 8)) > 40
    one = lg.codebook(generator, 4, per="tensor").history[-1].measured["layers"]
    more = lg.codebook(generator, 4).history[-1].measured["layers"]
    assert one["mid"]["codebooks"] == 1 < more["mid"]["codebooks"]
    assert one["mid"]["snr_db"] < more["mid"]["snr_db"]


def test_the_generator_is_left_alone(generator, data):
    before = {name: w.clone() for name, w in generator.program.state_dict.items()}
    lg.codebook(generator, 4, data=data)
    assert all(torch.equal(before[n], w) for n, w in generator.program.state_dict.items())
    assert "quantize_codebook" not in [s.name for s in generator.history]


@pytest.mark.parametrize("calibrated", [False, True])
def test_same_seed_same_weights_whatever_the_threads(generator, data, calibrated):
    given = data if calibrated else None
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = lg.codebook(generator, 4, data=given).program.state_dict
        torch.set_num_threads(2)
        two = lg.codebook(generator, 4, data=given).program.state_dict
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_biases_make_up_for_the_mean_on_data():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3))
    net[0].bias.data += 2  # strong means, that rounding errors multiply
    generator = lg.load(net, example_inputs=torch.rand(1, 3, 16, 16))
    data = [generator.example(seed=i) for i in range(4)]
    inputs = generator.example(seed=9)
    expected = generator.outputs(*inputs)[0].mean((0, 2, 3))

    def moved(made):
        return float((made.outputs(*inputs)[0].mean((0, 2, 3)) - expected).abs().max())

    assert moved(lg.codebook(generator, 2, data=data)) < 0.5 * moved(lg.codebook(generator, 2))


def test_rounding_with_feedback_keeps_the_output_better():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 3, 1),
    )  # fmt: skip
    generator = lg.load(net, example_inputs=torch.rand(1, 3, 16, 16))
    data = [
        tuple(nn.functional.avg_pool2d(x, 3, 1, 1) for x in generator.example(seed=i))
        for i in range(9)
    ]
    held = data.pop()
    for bits in (2, 3):
        plain, made = lg.codebook(generator, bits), lg.codebook(generator, bits, data=data)
        a, b, c = (g.outputs(*held)[0] for g in (generator, plain, made))
        assert float((a - c).square().sum()) < 0.8 * float((a - b).square().sum())
        for name, weight in made.program.state_dict.items():
            books = made.history[-1].measured["layers"][name.rpartition(".")[0]]["codebooks"]
            assert weight.dim() == 1 or len(weight.unique()) <= books * 2**bits


@pytest.mark.parametrize("calibrated", [False, True])
def test_zeros_stay_and_make_the_file_smaller(generator, data, tmp_path, calibrated):
    pruned = lg.prune_weights(generator, 0.5)
    both = lg.codebook(pruned, 4, data=data if calibrated else None)
    for name, weight in pruned.program.state_dict.items():
        assert bool((both.program.state_dict[name][weight == 0] == 0).all())
    alone = os.path.getsize(lg.codebook(generator, 4).save(tmp_path / "alone.pt2"))
    assert os.path.getsize(both.save(tmp_path / "both.pt2")) < alone
    assert [s.name for s in both.history][-2:] == ["prune_weights", "quantize_codebook"]


@pytest.mark.parametrize(("bits", "at_most"), [(4, 1 / 7), (3, 1 / 9), (8, 1 / 3)])
def test_the_file_is_small_and_opens_to_the_same_floats(generator, tmp_path, bits, at_most):
    made = lg.codebook(generator, bits)
    path = made.save(tmp_path / "g.pt2")
    opened = lg.load(path)
    for name, weight in made.program.state_dict.items():
        assert torch.equal(weight, opened.program.state_dict[name])
    assert opened.history == made.history
    with zipfile.ZipFile(path) as archive:
        stored = sum(i.file_size for i in archive.infolist() if "/codebook/" in i.filename)
    weights = sum(w.numel() for w in generator.program.parameters() if w.dim() > 1)
    assert stored < at_most * 4 * weights


@pytest.mark.parametrize(
    "keywords",
    [
        {"bits": 1},
        {"bits": 9},
        {"bits": 4.0},
        {"bits": True},
        {"per": "row"},
        {"init": "best"},
        {"levels": "log3"},
        {"data": []},
        {"only": ["nothing*"]},
    ],
)
def test_wrong_settings_are_refused(generator, keywords):
    with pytest.raises(UsageError):
        lg.codebook(generator, **{"bits": 4, **keywords})


def test_only_chosen_layers_change(generator):
    made = lg.codebook(generator, 2, only=["mi*"]).program.state_dict
    changed = [n for n, w in generator.program.state_dict.items() if not torch.equal(w, made[n])]
    assert changed == ["mid.weight"]


def test_nothing_to_quantize_is_said():
    generator = lg.load(nn.ReLU(), example_inputs=torch.rand(1, 3, 8, 8))
    with pytest.raises(LeanganError, match="no convolution"):
        lg.codebook(generator)
