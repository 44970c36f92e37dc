"""8 bits: near the float generator, where they should be, and not where they should not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import leangan as lg
from leangan.archive import open_archive, save
from leangan.errors import LeanganError, UsageError
from leangan.graph.replay import Replay
from leangan.techniques.calibrate import calibrate, calibrate_each, rough
from leangan.techniques.grid import make_grid
from leangan.techniques.placement import quantizable, source_of
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.ranges import RangeObserver, affine_codes
from leangan.techniques.scheme import Scheme
from leangan.techniques.trials import Trials

aten = torch.ops.aten


def db(a, b):
    spread = float(b.max() - b.min())
    return 10 * math.log10(spread**2 / float((a - b).square().mean()))


def load(module, *shapes, ranges=None):
    torch.manual_seed(1)
    return lg.load(
        module.eval(), example_inputs=[torch.rand(s) for s in shapes], ranges=ranges, task="arrays"
    )


class Translator(nn.Module):
    """What a CycleGAN is made of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8))
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()
        )
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, input):
        x = torch.relu(self.head(input))
        x = x + self.block(x)
        return torch.tanh(self.tail(torch.relu(self.up(torch.relu(self.down(x))))))


@pytest.fixture(scope="module")
def translator():
    return load(Translator(), (1, 3, 32, 32), ranges={"input": (-1, 1)})


@pytest.fixture(scope="module")
def data(translator):
    return [translator.example({"H": 32, "W": 32}, seed=s) for s in range(6)]


@pytest.fixture(scope="module")
def calibration(translator, data):
    return calibrate(translator, data)


def test_the_output_stays_near(translator, calibration):
    small = quantize(translator, calibration)
    for sizes in ({"H": 32, "W": 32}, {"N": 2, "H": 44, "W": 36}):
        (x,) = translator.example(sizes, seed=9)
        assert db(small(x), translator(x)) > 30


def test_every_layer_is_known_and_its_noise_measured(translator, calibration):
    assert list(calibration) == ["head.1", "block.1", "down", "up", "tail"]
    assert all(layer.noise > 0 for layer in calibration.values())
    assert calibration["head.1"].range_by == "signature"


def test_the_noise_of_all_layers_predicts_the_whole(translator, calibration, data):
    predicted = sum(layer.noise for layer in calibration.values())
    small = quantize(translator, calibration)
    seen = np.mean([float((small(*x) - translator(*x)).square().mean()) for x in data])
    assert abs(10 * math.log10(predicted / seen)) < 3


def test_weights_are_stored_in_8_bits(translator, calibration):
    small = quantize(translator, calibration)
    weights = sum(p.numel() for p in translator.program.parameters() if p.dim() > 1)
    assert small.bytes < translator.bytes - 2.5 * weights
    assert small.params == translator.params


def test_a_residual_stream_stays_float(translator, calibration):
    module = quantize(translator, calibration).module()
    for node in module.graph.nodes:
        if node.target is aten.add.Tensor:
            assert all("dequantize" not in str(n.target) for n in node.all_input_nodes)


def test_values_are_quantized_before_they_are_padded(translator):
    module = translator.module()
    source, taker = source_of(quantizable(module)["block.1"])
    assert taker.target is aten.pad.default
    assert source.target is not aten.pad.default


def test_padding_with_another_value_than_zero_is_quantized_after():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(nn.functional.pad(torch.sigmoid(x), (1, 1, 1, 1), value=7.0))

    generator = load(Padded(), (1, 3, 16, 16))
    _, taker = source_of(quantizable(generator.module())["conv"])
    assert taker.target is aten.conv2d.default


def test_layers_can_be_kept_in_float(translator, calibration):
    small = quantize(translator, calibration, keep_float=["up", "tail"])
    assert list(quantizable(small.module())) == ["up", "tail"]
    (x,) = translator.example(seed=9)
    assert db(small(x), translator(x)) > db(quantize(translator, calibration)(x), translator(x))


def test_transposed_scales_lie_along_output_channels(calibration):
    assert calibration["up"].grid.scales.numel() == 8
    assert calibration["down"].grid.scales.numel() == 16


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (
            nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ConvTranspose1d(8, 2, 4, 2, 1)),
            (1, 4, 40),
        ),
        (nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), (4, 16)),
        (
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)),
            (1, 8, 16, 16),
        ),
        (nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=4), (1, 8, 10, 10)),
        (nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.PixelShuffle(2)), (1, 4, 10, 10)),
    ],
    ids=["1-d", "linear", "depthwise", "grouped transposed", "shuffle"],
)
def test_kinds_of_layers(module, shape):
    torch.manual_seed(0)
    generator = load(module, shape)
    data = [generator.example(seed=s) for s in range(4)]
    small = quantize(generator, data)
    assert not quantizable(small.module())
    assert db(small(*data[0]), generator(*data[0])) > 25


def test_a_grouped_transposed_weight_has_one_scale():
    generator = load(nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=4), (1, 8, 10, 10))
    (layer,) = calibrate(generator, [generator.example()]).values()
    assert layer.grid.scales.numel() == 1


def test_white_stays_white_though_no_calibration_picture_was_bright():
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        conv.bias.zero_()
    generator = load(conv, (1, 3, 16, 16), ranges={"input": (0, 1), "output": (0, 1)})
    small = quantize(generator, [(torch.rand(1, 3, 16, 16) * 0.6,)])
    white = torch.ones(1, 3, 16, 16)
    assert float((small(white) - white).abs().max()) < 0.01


def test_it_is_saved_and_opened(translator, calibration, tmp_path):
    small = quantize(translator, calibration)
    again = open_archive(save(small, tmp_path / "small.pt2"))
    (x,) = translator.example(seed=5)
    assert torch.equal(again(x), small(x))


def test_same_data_same_numbers(translator, data, calibration):
    again = calibrate(translator, data)
    for name, layer in calibration.items():
        assert again[name].input_scale == layer.input_scale
        assert torch.equal(again[name].grid.scales, layer.grid.scales)


def test_layers_that_read_the_same_values_share_one_quantizer():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 2), nn.Conv2d(3, 4, 2)

        def forward(self, x):
            y = torch.relu(x - 0.5)
            pad = nn.functional.pad
            return self.a(pad(y, (1, 0, 1, 0))) + 9 * self.b(pad(y, (0, 1, 0, 1)))

    generator = load(Fork(), (1, 3, 12, 12))
    data = [generator.example(seed=s) for s in range(3)]
    first, second = calibrate(generator, data).values()
    assert (first.input_scale, first.input_zero_point) == (
        second.input_scale,
        second.input_zero_point,
    )
    nodes = quantize(generator, data).module().graph.nodes
    quantizers = [n for n in nodes if "quantized_decomposed.quantize" in str(n.target)]
    assert len(quantizers) == 1


def test_unknown_layers_are_named(translator, calibration):
    with pytest.raises(UsageError, match=r"'nose'.*head\.1"):
        quantize(translator, calibration, keep_float=["nose"])


def test_several_schemes_are_calibrated_as_each_alone(translator, data):
    schemes = {word: Scheme().at(word) for word in ("w8s8", "w8a8", "w4", "w8a16")}
    together = calibrate_each(translator, data, schemes)
    assert list(together) == list(schemes)
    for word, scheme in schemes.items():
        alone = calibrate(translator, data, scheme)
        assert list(together[word]) == list(alone)
        for name, code in alone.items():
            other = together[word][name]
            assert (other.scheme, other.range_by) == (code.scheme, code.range_by)
            assert (other.input_scale, other.noise) == (code.input_scale, code.noise)
            assert other.input_zero_point == code.input_zero_point


def test_progress_of_several_schemes_only_grows(translator, data):
    seen = []
    schemes = {word: Scheme().at(word) for word in ("w8s8", "w8a16")}
    calibrate_each(translator, data, schemes, progress=lambda *x: seen.append(x))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({of for _, of in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_a_mean_that_a_norm_takes_off_is_not_put_into_the_bias():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.InstanceNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )
    inputs = [(torch.rand(1, 3, 16, 16),) for _ in range(4)]
    codes = calibrate(load(net, (1, 3, 16, 16)), inputs)
    assert codes["0"].bias_shift is None


def test_nothing_left_to_quantize_is_said(translator, calibration):
    with pytest.raises(UsageError, match="nothing to quantize"):
        quantize(translator, calibration, keep_float=list(calibration))


def test_no_data_is_said(translator):
    with pytest.raises(UsageError, match="at least one input"):
        calibrate(translator, [])


def test_a_network_without_layers_is_said():
    with pytest.raises(LeanganError, match="no layer"):
        calibrate(load(nn.Tanh(), (1, 3, 8, 8)), [(torch.rand(1, 3, 8, 8),)])


def test_outliers_are_clipped_for_the_least_error():
    seen = RangeObserver()
    torch.manual_seed(0)
    seen.see(torch.cat([torch.randn(60_000), torch.tensor([12.0])]))
    low, high = seen.mse(32)
    assert seen.minmax()[1] == 12.0
    assert 3 < high < 6
    assert -6 < low < -2


def test_few_levels_clip_more():
    seen = RangeObserver()
    seen.see(torch.randn(60_000, generator=torch.Generator().manual_seed(0)))
    assert seen.mse(16)[1] < seen.mse(256)[1]


def test_zero_is_exact():
    for low, high in ((-1.0, 1.0), (0.0, 6.0), (-0.3, 2.0)):
        scale, zero = affine_codes(low, high)
        assert 0 <= zero <= 255
        assert (zero - zero) * scale == 0
        assert scale * (255 - zero) == pytest.approx(high, abs=scale)


def test_signed_codes_have_as_many_levels_on_both_sides():
    assert affine_codes(0.0, 6.0, signed=True) == affine_codes(0.0, 6.0)
    for low, high in ((-1.0, 1.0), (-0.2, 2.0), (-3.0, 0.0)):
        scale, zero = affine_codes(low, high, signed=True)
        assert zero == 128
        assert scale * 127 >= high - 1e-6
        assert scale * 128 >= -low - 1e-6
        assert scale * 128 <= max(high * 128 / 127, -low) + 1e-6


def test_a_signed_scheme_has_no_zero_points(translator, data):
    codes = calibrate(translator, data, Scheme().at("w8s8"))
    zeros = {name: code.input_zero_point for name, code in codes.items()}
    # What a ReLU puts out has none in any case; the picture and the residual stream have.
    assert zeros == {"head.1": 128, "block.1": 0, "down": 0, "up": 0, "tail": 0}
    (x,) = translator.example({"H": 32, "W": 32}, seed=9)
    assert db(quantize(translator, codes)(x), translator(x)) > 30
    with pytest.raises(UsageError, match="8 bits"):
        Scheme(signed=True, activation_bits=16)


def test_weight_steps_are_never_worse_than_the_plain_ones():
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3) ** 3

    def error(step):
        grid = make_grid(weight, 0, 4, symmetric=True, rows=6, step=step)
        assert (grid.scales > 0).all()
        return float((grid.nearest(weight) - weight).square().sum())

    assert error("mse") < min(error("minmax"), error("percentile"), error("entropy"))


def test_rough_numbers_make_a_form_with_the_same_layers(translator, calibration):
    numbers = rough(translator, translator.example({"H": 32, "W": 40}))
    assert list(numbers) == list(calibration)
    for target in ("dequantize_per_channel", "quantize_per_tensor", "conv"):
        counts = [
            sum(target in str(n.target) for n in quantize(translator, c).program.graph.nodes)
            for c in (numbers, calibration)
        ]
        assert counts[0] == counts[1]


def test_what_is_far_behind_is_not_tried_on(monkeypatch):
    """The option that is best on all inputs together is found without trying all on all."""
    torch.manual_seed(0)
    generator = load(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)), (1, 3, 20, 24)
    )
    module = generator.module()
    *_, last = quantizable(module).values()
    inputs = [(torch.rand(1, 3, 20, 24) * scale,) for scale in (1.0, 0.5, 6.0, 1.0)]
    (code,) = (c for n, c in calibrate(generator, inputs).items() if n == "2")
    reach = 255 * code.input_scale
    options = {last: [replace(code, input_scale=reach * s / 255) for s in (0.05, 0.3, 1.0, 8.0)]}
    runs = []
    changed = Replay.changed
    monkeypatch.setattr(Replay, "changed", lambda *a: runs.append(a) or changed(*a))
    trials = Trials(generator, module, inputs)
    chosen = trials.best(options)[last]
    assert len(runs) < 4 * 4
    alone = [trials.best({last: [option]})[last] for option in options[last]]
    assert chosen == min(alone, key=lambda c: c.noise)
