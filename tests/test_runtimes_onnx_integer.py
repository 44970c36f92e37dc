"""Quantize operators move to where kernels want them, and the network stays the same."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import leangan as lg
from leangan import runtimes
from leangan.runtimes.onnx_file import to_onnx
from leangan.runtimes.onnx_integer import (
    round_before_joins,
    round_before_shuffles,
    scale_where_computed,
    sum_twice,
)
from leangan.runtimes.openvino_probe import saturates
from leangan.techniques.calibrate import calibrate
from leangan.techniques.placement import pools, quantizable
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.scheme import Scheme


class Dense(nn.Module):
    """A dense block with channels of very unlike ranges, and a tail with slopes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 4, 3, padding=1)
        self.second = nn.Conv2d(12, 4, 3, padding=1)
        self.third = nn.Conv2d(16, 8, 3, padding=1)
        self.fourth = nn.Conv2d(16, 8, 3, padding=1)
        self.slopes = nn.PReLU(8, 0.2)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)
        with torch.no_grad():
            for layer in (self.head, self.first, self.second, self.third, self.fourth):
                layer.weight.mul_(torch.logspace(-1, 1, len(layer.weight)).reshape(-1, 1, 1, 1))

    def forward(self, input):
        x = self.head(input)
        a = nn.functional.leaky_relu(self.first(x), 0.2)
        b = nn.functional.leaky_relu(self.second(torch.cat([x, a], 1)), 0.2)
        y = x + self.third(torch.cat([x, a, b], 1)) * 0.2
        return torch.sigmoid(self.tail(self.slopes(self.fourth(torch.cat([y, a, b], 1)))))


@pytest.fixture(scope="module")
def net():
    return lg.load(Dense().eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")


@pytest.fixture(scope="module")
def data(net):
    return [net.example({"H": 24, "W": 24}, seed=s) for s in range(6)]


@pytest.fixture(scope="module")
def small(net, data):
    return quantize(net, data)


def run(model, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def db(a, b):
    return 10 * math.log10(float(np.ptp(b)) ** 2 / max(1e-20, float(np.square(a - b).mean())))


def test_layers_of_a_dense_block_are_one_pool(net):
    found = pools(quantizable(net.module()).values())
    names = [[layer.meta["val"].shape[1] for layer in pool.layers] for pool in found]
    assert names == [[8], [4, 4, 8, 8], [3]]
    block = found[1]
    last = block.layers[-1]
    whole = torch.arange(sum(v.meta["val"].shape[1] for v in block.values))
    assert len(block.channels(last)) == 16
    # y comes after x, a and b among the pool's values, and first in the last join.
    assert torch.equal(block.channels(last)[:8], whole[-8:])


def test_a_pool_has_one_range_and_one_factor_per_channel(net, data):
    codes = calibrate(net, data, Scheme(range="minmax"))
    block = [codes[name] for name in ("first", "second", "third", "fourth")]
    assert len({(c.source, c.input_scale, c.input_zero_point) for c in block}) == 1
    assert torch.equal(block[0].factors, block[1].factors[:8])
    assert torch.equal(block[1].factors, block[2].factors[:12])


def test_joined_values_are_rounded_once_and_nothing_changes(small, data):
    before, after = to_onnx(small), to_onnx(small)
    assert round_before_joins(after) == 3
    makers = {v: n for n in after.graph.node for v in n.output}
    for node in after.graph.node:
        if node.op_type == "Concat":
            assert all(makers[part].op_type == "DequantizeLinear" for part in node.input)
    count = Counter(n.op_type for n in after.graph.node)
    # The port, x, a, b, y, and what enters the tail.
    assert count["QuantizeLinear"] == 6
    for x in (data[0][0], torch.rand(2, 3, 19, 33)):
        assert np.array_equal(run(before, x), run(after, x))


class Shuffled(nn.Module):
    """A depth-to-space in each order of channels, with what may stand behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(n, 12, 3, padding=1) for n in (3, 3, 3))
        self.slopes, self.slope = nn.PReLU(3), nn.PReLU(1)
        with torch.no_grad():
            self.slopes.weight.copy_(torch.tensor([0.1, 0.4, 0.7]))
            for layer in (self.a, self.b):
                layer.weight.mul_(torch.logspace(-1, 1, 3).repeat(4).reshape(-1, 1, 1, 1))

    def forward(self, input):
        x = self.slope(nn.functional.pixel_shuffle(self.a(input), 2))
        n, _, h, w = x.shape
        y = self.b(self.slopes(x)).view(n, 2, 2, 3, h, w).permute(0, 3, 4, 1, 5, 2)
        y = nn.functional.leaky_relu(y.reshape(n, 3, 2 * h, 2 * w), 0.2)
        return nn.functional.pixel_shuffle(torch.tanh(self.c(y)), 2)


def test_values_are_rounded_before_they_are_shuffled_and_nothing_changes():
    net = lg.load(Shuffled().eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")
    small = quantize(net, [net.example(seed=s) for s in range(4)])
    before, after = to_onnx(small), to_onnx(small)
    assert Counter(n.op_type for n in before.graph.node)["DepthToSpace"] == 3
    assert any(n.op_type == "Mul" for n in before.graph.node)
    assert round_before_shuffles(after) == 2  # nothing is rounded behind the last
    makers = {v: n for n in after.graph.node for v in n.output}
    shuffles = [n for n in after.graph.node if n.op_type == "DepthToSpace"]
    kinds = [makers[node.input[0]].op_type for node in shuffles]
    assert sorted(kinds) == ["DequantizeLinear", "DequantizeLinear", "Tanh"]
    for x in (torch.rand(1, 3, 16, 16), torch.rand(2, 3, 9, 14)):
        assert np.array_equal(run(before, x), run(after, x))


def test_factors_go_into_the_weights_in_front_of_activations(small, data):
    model = to_onnx(small)
    round_before_joins(model)
    (x,) = data[0]
    wanted = run(model, x)
    # a, b and what enters the tail; x and y are read as they are by the sums too.
    assert scale_where_computed(model) == 3
    quantized = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    scaled = [n for n in model.graph.node if n.op_type == "Mul" and n.output[0] in quantized]
    assert len(scaled) == 2
    assert db(run(model, x), wanted) > 60


class Residual(nn.Module):
    """A stream that is read rounded and as it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, input):
        x = input
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_sums_that_are_read_in_two_forms_are_computed_twice():
    net = lg.load(Residual().eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays")
    data = [net.example({"H": 24, "W": 24}, seed=s) for s in range(4)]
    small = quantize(net, data)
    before, after = to_onnx(small), to_onnx(small)
    assert sum_twice(after) == 2  # the first layer reads the port, and nothing reads the last sum
    readers = Counter(name for node in after.graph.node for name in node.input)
    makers = {v: n for n in after.graph.node for v in n.output}
    for node in after.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in makers:
            source = node.input[0]
            while makers[source].op_type == "Mul":
                source = makers[source].input[0]
            assert makers[source].op_type == "Add"
            assert readers[source] == 1
    (x,) = data[0]
    assert np.array_equal(run(before, x), run(after, x))


class Weighted(nn.Module):
    """Multiplications that are the network's own, in front of what is rounded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.tail, self.last = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.register_buffer("map", torch.rand(1, 4, 16, 16))
        self.register_buffer("signs", torch.tensor([1.0, -1, 2, -2]).reshape(1, 4, 1, 1))

    def forward(self, input):
        x = torch.cat([self.head(input), self.other(input)], 1) * 0.5
        y = torch.relu(self.tail(x)) * self.map
        return self.last(y) + self.last(torch.relu(y) * self.signs)


def test_other_multiplications_are_left_alone():
    net = lg.load(
        Weighted().eval(), example_inputs=[torch.rand(1, 3, 16, 16)], task="arrays",
    )  # fmt: skip
    data = [net.example({"N": 1}, seed=s) for s in range(4)]
    small = quantize(net, data)
    before, after = to_onnx(small), to_onnx(small)
    round_before_joins(after)
    scale_where_computed(after)
    sum_twice(after)
    (x,) = data[0]
    assert db(run(after, x), run(before, x)) > 60


def test_openvino_computes_a_dense_block_in_integers(net, data, tmp_path):
    runtime = runtimes.get("openvino")
    if not runtime.precisions(quantized=True):
        pytest.skip("this CPU has no 8-bit kernels")
    bits = 7 if saturates() else 8  # of which this CPU would clip the sums
    small = quantize(net, calibrate(net, data, Scheme(weight_bits=bits)))
    artifact = runtime.build(small, tmp_path, "int8")
    session = runtime.open(artifact, 1)
    (x,) = data[1]
    (made,) = session.run([x.numpy()])
    assert session.int8_share() == 1.0
    assert db(made, small(x).numpy()) > 40
