"""What each layer takes: names reach the runtimes, and what belongs to a layer is counted to it."""

from __future__ import annotations

import onnx
import pytest
import torch
from task_nets import image_generator
from torch import nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.runtimes import get
from leangan.runtimes.layer_names import layer_of
from leangan.runtimes.layer_times import Executed, by_layer, run_often, typical
from leangan.runtimes.onnx_file import to_onnx
from leangan.runtimes.worker import _Opened, answer
from leangan.testing.runtimes import tiny_generator, tiny_int8_generator

TINY = {"down", "body.0", "body.2", "up", "last"}


class Odd(nn.Module):
    """Weights whose names an export may lose: transposed, shared, grouped, without an owner."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 40)
        self.twice = nn.Linear(10, 10, bias=False)
        self.loose = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.end = nn.Conv2d(4, 8, 3, padding=1, groups=2)

    def forward(self, z):
        x = self.dense(z).view(-1, 4, 1, 10).repeat(1, 1, 10, 1)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.end(torch.conv2d(x, self.loose, padding=1))


@pytest.fixture(scope="module")
def odd():
    torch.manual_seed(0)
    program = capture(Odd().eval(), [torch.randn(2, 8)], [[0]])
    z = Port("z", "latent", "NC", (None, 8), (1, 8))
    out = Port("out", "feature", "NCHW", (None, 8, 10, 10), (1, 8, 10, 10))
    return Generator(program, Signature((z,), (out,)))


def test_names_of_layers_are_in_the_file(odd):
    model = to_onnx(odd)
    onnx.checker.check_model(model)
    names = [layer_of(node.name) for node in model.graph.node]
    assert [n for n in names if n] == ["dense", "twice", "twice", "loose", "end"]
    assert len({node.name for node in model.graph.node}) == len(names), "two nodes of one name"


def test_a_quantized_layer_has_its_own_name():
    names = {layer_of(node.name) for node in to_onnx(tiny_int8_generator()).graph.node}
    assert names == {None, "up", *(f"_frozen_param{i}" for i in range(4))}


class Scaled(nn.Module):
    """What a residual dense block does: a scaled convolution, added."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x) * 0.2 + x)


def test_a_scaled_layer_is_found_under_its_own_name(tmp_path):
    generator = image_generator(Scaled())
    backend = get("openvino")
    session = backend.open(backend.build(generator, tmp_path, "fp32"), 1)
    session.run([x.numpy() for x in generator.example()])
    assert set(session.layer_times()) == {"conv"}


@pytest.mark.parametrize("name", ["", "node_conv2d", "layer", "layer[]", "player"])
def test_other_nodes_are_no_layers(name):
    assert layer_of(name) is None


def test_runtimes_change_names_a_little():
    for name in ("layer[a.0]", "layer[a.0]#2", "fused layer[a.0]", "layer[a.0]/WithoutBiases"):
        assert layer_of(name) == "a.0"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_every_layer_has_a_time_in_float_and_in_8_bits(runtime, odd, tmp_path):
    backend = get(runtime)
    for precision in (*backend.precisions(quantized=False)[-1:], "int8"):
        whole = precision.startswith("int8")
        cases = [(tiny_int8_generator() if whole else tiny_generator(), len(TINY))]
        if not whole:
            cases.append((odd, 4))
        for generator, count in cases:
            folder = tmp_path / f"{precision}{count}"
            folder.mkdir()
            session = backend.open(backend.build(generator, folder, precision), 1)
            assert session.layer_times() == {}, "nothing has run yet"
            session.run([x.numpy() for x in generator.example({"N": 2, "H": 128, "W": 128})])
            times = session.layer_times()
            assert len(times) == count
            assert all(ms >= 0 for ms in times.values())
            assert sum(times.values()) > 0
            if not whole:
                assert set(times) == (TINY if count == 5 else {"dense", "twice", "loose", "end"})


def test_times_are_of_the_last_inputs(tmp_path):
    generator = tiny_generator()
    backend = get("openvino")
    session = backend.open(backend.build(generator, tmp_path, "fp32"), 1)

    def total(size):
        session.run([x.numpy() for x in generator.example({"H": size, "W": size})])
        return sum(session.layer_times().values())

    assert total(256) > total(16)  # 256 times as many pixels: no disturbance turns that around


def test_pytorch_tells_nothing(tmp_path):
    session = get("torch").open(get("torch").build(tiny_generator(), tmp_path, "fp32"), 1)
    session.run([x.numpy() for x in tiny_generator().example()])
    assert session.layer_times() == {}


def test_the_worker_hands_them_on():
    class Session:
        def layer_times(self):
            return {"a": 1.5}

    state = _Opened()
    assert "No artifact" in answer(state, {"layers": True})["error"]
    state.session = Session()
    assert answer(state, {"layers": True}) == {"layer_ms": {"a": 1.5}}


def node(name, *reads, ms=1.0, layer=None, helper=False):
    return Executed(name, ms, layer, helper, reads)


def test_helpers_go_to_the_layer_that_they_serve():
    times = by_layer(
        [
            node("x", ms=100),
            node("quantize", "x", ms=0.25, helper=True),
            node("pad", "quantize", ms=0.5, helper=True),
            node("conv", "pad", ms=1, layer="a"),
            node("norm", "conv", ms=100),
            node("conv2", "norm", ms=2, layer="b"),
            node("reorder", "conv2", ms=4, helper=True),
            node("result", "reorder", ms=100),
        ]
    )
    assert times == {"a": 1.75, "b": 6}


def test_a_layer_of_several_nodes_gets_their_sum():
    phases = [node(f"phase{i}", ms=2, layer="up") for i in range(4)]
    assert by_layer(phases) == {"up": 8}


def test_a_helper_that_two_layers_read_is_counted_once():
    nodes = [node("q", ms=1, helper=True), node("a", "q", layer="a"), node("b", "q", layer="b")]
    assert by_layer(nodes) == {"a": 2, "b": 1}


def test_helpers_between_others_belong_to_nobody():
    nodes = [node("norm"), node("reorder", "norm", helper=True), node("add", "reorder")]
    assert by_layer(nodes) == {}


def test_a_ring_of_helpers_ends():
    assert by_layer([node("a", "b", helper=True), node("b", "a", helper=True)]) == {}


def test_the_first_run_does_not_count():
    assert typical([1000.0, 1.0, 3.0, 2.0]) == 2.0
    calls = []
    run_often(lambda: calls.append(1))
    assert len(calls) == 10
