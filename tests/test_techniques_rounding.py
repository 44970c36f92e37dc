"""Fitted rounding: outputs keep better than with nearest codes, and nothing gets worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import leangan as lg
from leangan.errors import UsageError
from leangan.graph.rewrite import tensor_of
from leangan.techniques.calibrate import calibrate
from leangan.techniques.layer_code import rounded
from leangan.techniques.placement import quantizable
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.round_blocks import find_blocks
from leangan.techniques.round_feedback import feed_back, round_feedback
from leangan.techniques.round_layer import Choice
from leangan.techniques.round_learned import descend, round_learned
from leangan.techniques.round_problem import Moments, Problem
from leangan.techniques.scheme import Scheme


class Image(nn.Module):
    """Plain, strided, depthwise and transposed convolutions around a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv2d(3, 12, 3, padding=1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.one = nn.Conv2d(12, 12, 3, padding=1)
        self.two = nn.Conv2d(12, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 12, 4, 2, 1, groups=2)
        self.out = nn.Conv2d(12, 3, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.deep(self.inp(x).relu()).relu()
        x = x + self.two(self.one(x).relu())
        return self.out(self.up(self.down(x).relu()).relu())


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv1d(4, 12, 5, padding=4, dilation=2)
        self.up = nn.ConvTranspose1d(12, 8, 4, 2, 1)
        self.out = nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, x):
        return self.out(self.up(self.inp(x).relu()).relu()).tanh()


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(16, 32)
        self.two = nn.Linear(32, 20)

    def forward(self, x):
        return self.two(self.one(x).relu())


NETS = {
    "image": (Image, (1, 3, 16, 16)),
    "sound": (Sound, (1, 4, 48)),
    "digits": (Digits, (64, 16)),
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    torch.manual_seed(0)
    module, shape = NETS[request.param]
    generator = lg.load(module().eval(), example_inputs=torch.rand(*shape))
    # Neighbours are alike, as in real inputs: then there is something to make up for errors with.
    draws = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(9))
    data = [(x.cumsum(-1) / 2,) for x in draws]
    return generator, data[:8], data[8]


def calibration_of(generator, data, word, **settings):
    scheme = Scheme(range="mse", equalize=False, **settings).at(word)
    return calibrate(generator, data, scheme)


def error(generator, calibration, inputs):
    """Of the quantized generator's output, by the code that writes it."""
    made = quantize(generator, calibration)
    return float((made(*inputs) - generator(*inputs)).square().mean())


@pytest.mark.parametrize("word", ["w3", "w4a8"])
def test_outputs_keep_better_than_with_nearest_codes(net, word):
    generator, data, unseen = net
    nearest = calibration_of(generator, data, word)
    # Twelve channels of random weights leave little to make up with: sound must not get worse.
    most = 1.1 if generator.name == "Sound" else 0.9
    before = error(generator, nearest, unseen)
    for made in (
        round_feedback(generator, nearest, data),
        round_learned(generator, nearest, data),
        round_learned(generator, nearest, data, blocks="block", steps=20),
    ):
        assert list(made) == list(nearest)
        assert error(generator, made, unseen) < most * before


@pytest.mark.parametrize("settings", [{"per": "group", "group": 8}, {"symmetric": False}, {}])
def test_codes_are_whole_and_within_the_grid(net, settings):
    generator, data, unseen = net
    nearest = calibration_of(generator, data, "w3", **settings)
    module = generator.module()
    made = round_learned(generator, nearest, data)
    most = 1.1 if generator.name == "Sound" else 1
    assert error(generator, made, unseen) < most * error(generator, nearest, unseen)
    for name, node in quantizable(module).items():
        codes, grid = made[name].codes, made[name].grid
        assert codes.shape == tensor_of(module, node.args[1]).shape
        assert torch.equal(codes, codes.round())
        assert grid.low <= float(codes.min()) <= float(codes.max()) <= grid.high
    assert any((made[n].codes != codes_of(module, nearest, n)).any() for n in nearest)


def codes_of(module, calibration, name):
    node = quantizable(module)[name]
    return calibration[name].weight_codes(tensor_of(module, node.args[1]), node)


def test_biases_keep_the_means_of_outputs(net):
    generator, data, _ = net
    made = round_learned(generator, calibration_of(generator, data, "w3"), data)
    module = generator.module()
    nodes = quantizable(module)
    name, node = next(iter(nodes.items()))
    assert made[name].bias_shift is not None
    weight, bias = (tensor_of(module, n) for n in node.args[1:3])
    errors = []
    for (x,) in data:
        args = (x, weight, bias, *node.args[3:])
        errors.append(rounded(made[name])(node, args) - node.target(*args))
    stacked = torch.stack(errors)
    axis = -1 if node.target is torch.ops.aten.linear.default else 2
    assert float(stacked.detach().movedim(axis, 0).flatten(1).mean(1).abs().max()) < 1e-5
    for name, node in nodes.items():
        if len(node.args) < 3 or node.args[2] is None:
            assert made[name].bias_shift is None


def test_same_seed_same_codes_and_a_layer_left_out_stays_float(net):
    generator, data, _ = net
    calibration = calibration_of(generator, data, "w3")
    first = next(iter(calibration))
    calibration = {n: c for n, c in calibration.items() if n != first}
    told = []
    one, two = (
        round_learned(
            generator, calibration, data, blocks="block", steps=5, seed=3,
            progress=lambda *p: told.append(p),
        )
        for _ in range(2)
    )  # fmt: skip
    assert first not in one
    assert all(torch.equal(one[n].codes, two[n].codes) for n in calibration)
    assert told == [(i + 1, len(calibration)) for i in range(len(calibration))] * 2


def test_the_calibration_that_is_given_is_left_alone(net):
    generator, data, _ = net
    calibration = calibration_of(generator, data, "w4")
    shifts = {n: c.bias_shift for n, c in calibration.items()}
    round_learned(generator, calibration, data)
    assert all(c.codes is None and c.bias_shift is shifts[n] for n, c in calibration.items())


def test_fitting_that_does_not_help_is_not_kept():
    """Two samples that contradict what is held out: a layer keeps the codes that it has."""
    torch.manual_seed(0)
    generator = lg.load(nn.Linear(8, 4, bias=False).eval(), example_inputs=torch.rand(4, 8))
    seen = torch.zeros(4096, 8)
    seen[:, 0] = torch.randn(4096)
    other = torch.randn(4096, 8)
    data = [(seen,), (seen,), (seen,), (other,)]  # one sample in four is held out
    nearest = calibration_of(generator, data, "w2")
    worst = {
        n: replace(c, codes=codes_of(generator.module(), nearest, n)) for n, c in nearest.items()
    }
    made = round_learned(generator, worst, data)
    before = error(generator, worst, (other,))
    assert error(generator, made, (other,)) <= before * (1 + 1e-6)


def test_zeros_stay():
    torch.manual_seed(0)
    module = Digits().eval()
    with torch.no_grad():
        module.one.weight[:, ::2] = 0
    generator = lg.load(module, example_inputs=torch.rand(8, 16))
    data = [(torch.randn(64, 16),) for _ in range(4)]
    calibration = calibration_of(generator, data, "w3")
    for made in (
        round_feedback(generator, calibration, data),
        round_learned(generator, calibration, data, blocks="block", steps=20),
    ):
        assert not made["one"].codes[:, ::2].any()
        assert made["one"].codes.any()


def problem_of(x, r):
    moments = Moments.empty(1, x.shape[1], r.shape[1])
    moments.see(x[None], r[None])
    return Problem(torch.arange(1), moments, moments)


def test_descent_ends_where_no_single_code_is_better_and_the_quadratic_form_is_the_error():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=rng) @ torch.randn(6, 6, generator=rng)
    weight, r = torch.randn(1, 3, 6, generator=rng), torch.randn(200, 3, generator=rng)
    step, zero = torch.full_like(weight, 0.5), torch.zeros_like(weight)
    codes = (weight / step).round().clamp(-3, 3)
    choice = Choice(weight, codes, step, zero, -3, 3)
    problem = problem_of(x, r)

    def direct(some):
        return float((x @ choice.moved(some)[0].mT - r).double().square().sum())

    assert float(problem.fit.error(choice.moved(codes))) == pytest.approx(direct(codes), rel=1e-5)
    found = descend(problem, choice, feed_back(problem, choice))
    assert direct(found) < direct(codes)
    for output in range(3):
        for place in range(6):
            for change in (-1, 1):
                other = found.clone()
                other[0, output, place] += change
                if other.abs().max() <= 3:
                    assert direct(other) >= direct(found) * (1 - 1e-5)


def test_blocks_have_one_way_in_and_out():
    generator = lg.load(Image().eval(), example_inputs=torch.rand(1, 3, 16, 16))
    module = generator.module()
    layers = [n.name for n in quantizable(module).values()]
    blocks = find_blocks(module, layers)
    taken = [name for block in blocks for name in block.layers]
    assert len(taken) == len(set(taken)) >= 6
    nodes = {n.name: n for n in module.graph.nodes}
    for block in blocks:
        assert 2 <= len(block.layers) <= 6
        for name in block.nodes:
            read = {n.name for n in nodes[name].all_input_nodes if n.op != "get_attr"}
            assert read <= {*block.nodes, block.entry, *block.given}
            if name != block.nodes[-1]:
                assert {n.name for n in nodes[name].users} <= set(block.nodes)


def test_dense_skips_make_no_block():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(8))

        def forward(self, x):
            for layer in self.layers:
                x = torch.cat([x, layer(x).relu()], 1)
            return x

    generator = lg.load(Dense().eval(), example_inputs=torch.rand(1, 3, 16, 16))
    module = generator.module()
    layers = [n.name for n in quantizable(module).values()]
    assert all(len(b.layers) < 8 for b in find_blocks(module, layers))
    assert find_blocks(module, layers[:1]) == []


def test_nonsense_is_refused(net):
    generator, data, _ = net
    calibration = calibration_of(generator, data[:2], "w4")
    with pytest.raises(UsageError, match="at least one calibration input"):
        round_feedback(generator, calibration, [])
    with pytest.raises(UsageError, match="not by 'channel'"):
        round_learned(generator, calibration, data, blocks="channel")
