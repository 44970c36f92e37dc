"""What is told of quantized layers, against what was asked for and counted by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from task_nets import Smooth, image_generator
from torch import nn

import leangan as lg
from leangan.generator import Generator
from leangan.graph.weights import with_weights
from leangan.techniques.calibrate import calibrate
from leangan.techniques.describe_quantized import describe_layers, summarize, worst
from leangan.techniques.grid import make_grid
from leangan.techniques.histogram import of_codebooks, of_steps
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.read_quantized import has_few_levels
from leangan.techniques.scheme import Scheme


class Up(nn.Module):
    """Input channels of unlike sizes, a layer that may run twice, a transposed convolution."""

    def __init__(self, times=1):
        super().__init__()
        self.times = times
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.first(x)) * torch.logspace(0, 2, 8).reshape(8, 1, 1)
        for _ in range(self.times):
            x = torch.tanh(self.middle(x) / 50)
        return torch.sigmoid(self.up(x))


@pytest.fixture(scope="module")
def net() -> Generator:
    return image_generator(Up(), factor=2)


@pytest.fixture(scope="module")
def data(net):
    return [net.example({"H": 12, "W": 14}, seed=i) for i in range(2)]


@pytest.mark.parametrize(
    ("scheme", "word", "per", "levels"),
    [
        (Scheme(), "w8a8", "channel", 255),
        (Scheme(weight_bits=4, activation_bits=None, per="group", group=8), "w4", "group", 15),
        (Scheme(weight_bits=4, symmetric=False), "w4a8", "channel", 16),
        (Scheme(weight_bits=2, activation_bits=16, per="tensor"), "w2a16", "tensor", 3),
    ],
)
def test_even_steps_are_read_from_the_graph(net, data, scheme, word, per, levels):
    made = quantize(net, data, scheme=scheme, keep_float=["first"])
    found = {layer.name: layer for layer in describe_layers(made, net)}
    assert list(found) == ["first", "middle", "up"]
    assert found["first"].precision == "float"
    assert found["first"].histogram is None
    assert found["first"].weight_db is None
    for layer in (found["middle"], found["up"]):
        assert (layer.precision, layer.per, layer.levels) == (word, per, levels)
        assert layer.integer is (scheme.activation_bits == 8)
        assert layer.params == 8 * 8 * 9 if layer.name == "middle" else 8 * 3 * 16
    assert found["up"].steps == {"channel": 3, "group": 3 * 16, "tensor": 1}[per]
    assert math.isclose(sum(layer.macs_share for layer in found.values()), 1)
    assert math.isclose(sum(layer.bytes_share for layer in found.values()), 1)


def test_the_error_of_a_weight_is_that_of_the_weight_that_was_rounded(net, data):
    """Also where input channels were scaled, and the weight with them."""
    factors = torch.logspace(-2, 1, 8)
    codes = dict(calibrate(net, data, Scheme(weight_bits=4, equalize=False)))
    weight = net.program.state_dict["middle.weight"] * factors.reshape(1, 8, 1, 1)
    grid = make_grid(weight, 0, 4, symmetric=True, rows=8, step="mse")
    codes["middle"] = dataclasses.replace(codes["middle"], factors=factors, grid=grid)
    made = quantize(net, codes)
    for layer in describe_layers(made, net):
        # A step of 15 levels rounds to some 12 to 26 dB; an error of the factors would be at 0.
        assert 12 < layer.weight_db < 26, layer
        seen = layer.histogram
        assert sum(seen.counts) == layer.params
        assert sum(count for _, count in seen.rows[0]) == layer.params


def test_without_the_original_errors_are_estimated_from_the_steps(net, data):
    made = quantize(net, data)
    for known, guessed in zip(describe_layers(made, net), describe_layers(made), strict=True):
        assert abs(known.weight_db - guessed.weight_db) < 1.5
        assert guessed.histogram.rounded
        assert not known.histogram.rounded
    coarse = quantize(net, data, scheme=Scheme(weight_bits=2))
    assert all(w.weight_db is None for w in describe_layers(coarse)), "nothing tells below 4 bits"


def test_noise_on_the_output_comes_from_the_history(net, data):
    made = quantize(net, data)
    noise = made.history[-1].measured["layers"]
    for layer in describe_layers(made):  # the output's range is 0 to 1
        assert math.isclose(layer.output_db, -10 * math.log10(noise[layer.name]["noise"]))
    weaker = describe_layers(made, power=0.01)
    assert all(
        math.isclose(a.output_db - b.output_db, 20)
        for a, b in zip(describe_layers(made), weaker, strict=True)
    )
    first = min(noise, key=lambda name: -noise[name]["noise"])
    assert summarize(describe_layers(made))["worst"][0] == first


def test_codebooks_are_read_with_their_levels(net, data):
    made = lg.codebook(net, 3, data=data, per="tensor", only=["middle", "up"])
    found = {layer.name: layer for layer in describe_layers(made, net)}
    said = made.history[-1].measured["layers"]
    assert [layer.precision for layer in found.values()] == ["float", "codebook 3", "codebook 3"]
    for name in ("middle", "up"):
        layer = found[name]
        weight = made.program.state_dict[f"{name}.weight"]
        assert (layer.per, layer.steps, layer.levels) == ("codebook", 1, len(weight.unique()))
        assert math.isclose(layer.weight_db, said[name]["snr_db"], abs_tol=1e-3)
        (row,) = layer.histogram.rows
        assert [v for v, _ in row] == weight.unique().tolist()
        assert sum(count for _, count in row) == weight.numel()
        assert not layer.integer
        # 3 bits a weight at most, with the levels and a little for the codes' own table
        assert layer.bytes < weight.numel() * 3 / 8 + 8 * 4 + 40
    assert summarize(list(found.values()))["integer_share"] == 0


def test_a_layer_that_runs_twice_is_told_once():
    shared = image_generator(Up(times=2), factor=2)
    once, twice = (
        describe_layers(lg.codebook(g, 3)) for g in (image_generator(Up(), factor=2), shared)
    )
    assert [w.name for w in twice] == [w.name for w in once] == ["first", "middle", "up"]
    assert [w.precision for w in twice] == ["codebook 3"] * 3
    assert twice[1].macs == 2 * once[1].macs
    assert twice[1].bytes == once[1].bytes


def test_weights_that_changed_since_are_no_codebook_any_more(net, data):
    made = lg.codebook(net, 3)
    weight = made.program.state_dict["up.weight"]
    trained = with_weights(made, {"up.weight": weight + 0.01 * torch.randn_like(weight)})
    again = Generator(trained, made.signature, made.task, made.history, made.name)
    precisions = {layer.name: layer.precision for layer in describe_layers(again)}
    assert precisions == {"first": "codebook 3", "middle": "codebook 3", "up": "float"}


def test_a_float_generator_has_nothing_to_tell(net):
    assert not has_few_levels(net)
    layers = describe_layers(net)
    assert {layer.precision for layer in layers} == {"float"}
    assert summarize(layers) is None
    assert worst(layers) == []


def test_a_filter_of_few_values_is_not_taken_for_a_codebook():
    module = Smooth()
    with torch.no_grad():
        module.b.weight.copy_(module.b.weight.sign())
    assert summarize(describe_layers(image_generator(module))) is None


def test_a_layer_called_quantize_is_not_quantized():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantize = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return torch.sigmoid(self.quantize(x))

    generator = image_generator(Named())
    assert not generator.quantized
    assert [layer.precision for layer in describe_layers(generator)] == ["float"]


def test_the_summary_counts_layers_and_macs(net, data):
    layers = describe_layers(quantize(net, data, keep_float=["first"]))
    said = summarize(layers)
    share = 1 - layers[0].macs_share
    assert said["precisions"] == {"float": 1, "w8a8": 2}
    assert math.isclose(said["integer_share"], share)
    assert said["words"].startswith(f"2 layers w8a8, 1 float; {share:.0%} of the MACs in 8 bits")


def test_weights_of_other_shapes_are_not_compared(net, data):
    made = quantize(net, data)
    other = image_generator(Smooth())
    for layer, alone in zip(describe_layers(made, other), describe_layers(made), strict=True):
        assert layer == alone


def test_bins_of_codes_are_even():
    codes = torch.arange(-127, 128)
    seen = of_steps(codes, None, -127, 127)
    assert set(seen.counts) == {3}, "as many codes in each, or it would look like teeth"
    assert (seen.low, seen.high) == (-127.5, 127.5)


def test_clipped_weights_lie_outside_of_the_levels():
    positions = torch.tensor([-12.2, -3.0, 0.0, 2.0, 7.4])
    seen = of_steps(positions.round().clamp(-7, 7), positions, -7, 7)
    assert seen.low <= -12.2
    assert seen.high == pytest.approx(7.5)
    assert sum(seen.counts) == 5
    assert seen.rows[0][0] == (-7.0, 1)


def test_few_codebooks_are_drawn_and_no_weight_is_lost():
    torch.manual_seed(0)
    levels = [torch.randn(4).sort().values for _ in range(9)]
    rows = torch.stack([one[torch.randint(4, (50,))] for one in levels])
    seen = of_codebooks(rows, levels, None)
    assert len(seen.rows) == 4
    assert all(sum(count for _, count in row) == 50 for row in seen.rows)
    assert sum(seen.counts) == rows.numel()
    drawn = [v for row in seen.rows for v, _ in row]
    assert seen.low <= min(drawn)
    assert seen.high >= max(drawn)


def test_a_weight_of_one_value_can_be_drawn():
    seen = of_codebooks(torch.zeros(1, 5), [torch.zeros(1)], None)
    assert seen.low < 0 < seen.high
    assert sum(seen.counts) == 5
