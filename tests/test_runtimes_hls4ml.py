"""FPGA projects: the C simulation is the fixed-point reference, bit by bit."""

from __future__ import annotations

import filecmp
import re

import numpy as np
import pytest
import torch
from task_nets import image_generator, latent_generator
from torch import nn
from torch.nn import functional as F

import leangan as lg
from leangan.errors import LeanganError
from leangan.generator import Port
from leangan.measure.latency import Worker
from leangan.runtimes import Artifact, fitting
from leangan.runtimes.check import agree
from leangan.runtimes.fixed.network import (
    Format,
    Input,
    Table,
    Transposed,
    Weighted,
    compute,
    covering,
    holding,
)
from leangan.runtimes.fixed.read import read_fixed
from leangan.runtimes.hls4ml_ import Hls4ml

RUNTIME = Hls4ml()
usable = pytest.mark.skipif(RUNTIME.missing() is not None, reason=str(RUNTIME.missing()))


class Drawn(nn.Module):
    """A latent to a picture that is not square, by one of each operator that the design has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(5, 3 * 2 * 4)
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.prelu = nn.PReLU(4)
        self.prelu.weight.data = torch.tensor([0.5, -0.2, 0.1, 1.2])
        self.b = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))
        self.up = nn.ConvTranspose2d(4, 8, 4, 2, 1)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.leaky_relu(self.fc(x), 0.2).view(-1, 3, 2, 4)
        x = self.prelu(self.a(F.interpolate(x, scale_factor=2)))
        x = x + F.gelu(self.b(x))
        x = F.relu(self.up(x))
        return torch.tanh(F.pixel_shuffle(self.c(F.pad(x, (1, 0, 0, 2))), 2) * 1.5 + 0.1)


class Layers(nn.Module):
    """Fully connected, with what a plan of 8 bits should keep apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 12)
        self.a.weight.data *= torch.logspace(-1, 1, 24)[:, None]

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return torch.sigmoid(self.c(x)).view(-1, 3, 2, 2)


def drawing(module, latent, shape):
    x = torch.randn(2, *latent)
    source = Port("latent", "latent", "NCHW"[: x.dim()], (None, *latent), (2, *latent))
    target = Port("image", "image", "NCHW", (None, *shape), (2, *shape), (-1.0, 1.0))
    return fitting(latent_generator(module, [source], target, [x]), RUNTIME)


@pytest.fixture(scope="module")
def drawn():
    return drawing(Drawn(), (5,), (1, 20, 34))


@pytest.fixture(scope="module")
def layers():
    return drawing(Layers(), (6,), (3, 2, 2))


@pytest.fixture(scope="module")
def layers8(layers):
    return lg.quantize(layers, [layers.example(seed=seed) for seed in range(16)])


def inputs(generator, count=16):
    return np.concatenate([generator.example(seed=100 + i)[0].numpy() for i in range(count)])


def reference(generator, x):
    """By numpy, channels first."""
    results = compute(read_fixed(generator), np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
    return np.moveaxis(results, -1, 1) if results.ndim == 4 else results


def decibels(expected, found):
    error = np.square(expected - found).mean()
    return 10 * np.log10(np.square(expected.max() - expected.min()) / error)


def quality(generator):
    x = inputs(generator)
    expected = np.concatenate([generator(torch.from_numpy(row[None])).numpy() for row in x])
    return decibels(expected, reference(generator, x).reshape(expected.shape))


def simulated_as_reference(generator, folder, precision):
    artifact = RUNTIME.build(generator, folder, precision)
    assert Artifact.from_json(artifact.to_json()) == artifact
    assert {p for p in folder.rglob("*") if p.is_file()} == set(artifact.files)
    before = set(folder.rglob("*"))
    with Worker(artifact, 1) as worker:
        (found,) = agree(generator, artifact, worker)
        x = inputs(generator)
        (y,) = worker.run([x])
        assert np.array_equal(y, reference(generator, x).astype(np.float32))
        assert worker.int8_share() is None
        assert worker.layer_times() == {}
        # What does not fit would be read behind the end of the array.
        with pytest.raises(LeanganError, match="no other size"):
            worker.run([x[:, :3]])
    assert set(folder.rglob("*")) == before
    return artifact, found.db


@usable
def test_maps_are_simulated_as_numpy_computes_them(drawn, tmp_path):
    _, db = simulated_as_reference(drawn, tmp_path, "fixed16")
    assert db > 55


@usable
def test_8_bit_vectors_are_simulated_as_numpy_computes_them(layers8, tmp_path):
    artifact, _ = simulated_as_reference(layers8, tmp_path, "fixed8")
    assert artifact.settings["counted"]["weight_bits"] < 12 * (6 + 24 + 12 + 8) * 24
    weights = next((tmp_path / "firmware" / "weights").glob("*.txt"))
    weights.write_text(weights.read_text()[:20])
    with pytest.raises(LeanganError, match="not those that were written"):
        RUNTIME.open(artifact, 1)


def test_16_bits_are_near_float_and_8_bits_near_their_plan(drawn, layers, layers8):
    assert quality(drawn) > 55
    assert quality(layers) > 60
    assert quality(layers8) > 35


def test_codes_of_a_plan_are_kept(layers, layers8):
    made = [o for o in read_fixed(layers8) if isinstance(o, Weighted)]
    stored = [b for b in layers8.program.buffers() if b.dtype == torch.int8]
    for operation, codes in zip(made, stored, strict=True):
        assert np.array_equal(np.sort(operation.weight.codes, None), np.sort(codes.numpy(), None))
        assert operation.weight.format.bits <= 8
    assert {o.weight.format.bits for o in read_fixed(layers) if isinstance(o, Weighted)} == {16}


def test_a_linear_layer_puts_out_maps_without_a_transposition(drawn):
    assert not [o for o in read_fixed(drawn) if isinstance(o, Transposed) and len(o.order) == 3]


def test_accumulators_hold_the_worst_case(drawn, layers8):
    for network in (read_fixed(drawn), read_fixed(layers8)):
        forms = {o.name: o.format for o in network}
        for o in network:
            if isinstance(o, Weighted):
                form, weight = forms[o.inputs[0]], o.weight.codes.reshape(-1, o.shape[-1])
                above = np.where(weight > 0, weight * form.high, weight * form.low).sum(0)
                below = np.where(weight > 0, weight * form.low, weight * form.high).sum(0)
                assert (above + o.bias.codes).max() <= o.accumulator.high
                assert (below + o.bias.codes).min() >= o.accumulator.low
                assert o.accumulator.bits <= 53


def test_a_latent_picture_of_one_pixel_is_a_linear_layer():
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()
    )
    generator = drawing(net, (6, 1, 1), (3, 6, 6))
    assert isinstance(read_fixed(generator)[0], Input)
    assert quality(generator) > 55


def test_maps_become_vectors_channel_by_channel():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1), nn.Flatten(), nn.Linear(18, 8), nn.Unflatten(1, (2, 2, 2))
    )
    generator = drawing(net, (2, 3, 5), (2, 2, 2))
    assert quality(generator) > 65


def test_tables_hold_the_function(layers):
    (table,) = (o for o in read_fixed(layers) if isinstance(o, Table))
    form = {o.name: o.format for o in read_fixed(layers)}[table.inputs[0]]
    codes = np.arange(form.low, form.high + 1)
    right = 1 / (1 + np.exp(-form.values(codes)))
    found = table.format.values(table.table.codes[codes % len(table.table.codes)])
    assert np.abs(right - found).max() <= 2.0**-16


@pytest.mark.parametrize("form", [Format(5, 2), Format(4, -1), Format(6, 9, False)])
def test_rounding_is_to_the_nearest_code_halves_up_and_clips(form):
    codes = np.arange(-600, 600)
    expected = np.clip(np.floor(codes * 2.0 ** (form.fraction - 4) + 0.5), form.low, form.high)
    assert np.array_equal(form.rounded(codes, 4), expected)
    assert np.array_equal(form.codes(codes / 16), expected)


@pytest.mark.parametrize("low", [-3.7, -1.0, 0.0])
@pytest.mark.parametrize("high", [0.0, 0.9999, 1.0, 1.25, 100.0])
def test_formats_cover_and_hold(low, high):
    form = covering(low, high, 8)
    step = 2.0**-form.fraction
    assert form.values(form.codes(np.array(low))) == pytest.approx(low, abs=step / 2)
    assert form.values(form.codes(np.array(high))) == pytest.approx(high, abs=step / 2)
    finer = Format(8, form.fraction + 1, form.signed)
    assert low == high or finer.low * step / 2 > low or (finer.high + 0.5) * step / 2 < high
    codes = (int(low * 10), int(high * 10))
    narrow = holding(*codes, 3)
    assert narrow.low <= codes[0]
    assert narrow.high >= codes[1]
    less = Format(narrow.bits - 1, 3, narrow.signed)
    assert narrow.bits == 1 or less.low > codes[0] or less.high < codes[1]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2), "conv_transpose2d at 'bad'"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), "conv2d at 'bad'.*groups"),
        (nn.ReflectionPad2d(1), "pad at .*only zeros"),
        (nn.AvgPool2d(2), "avg_pool2d.*no such layer"),
        (nn.InstanceNorm2d(4), "at .* of Sequential"),
    ],
)
def test_what_hls4ml_lacks_is_refused_by_name(layer, words):
    net = nn.Sequential()
    net.add_module("good", nn.Conv2d(3, 4, 3, padding=1))
    net.add_module("bad", layer)
    net.add_module("last", nn.Conv2d(4, 3, 1))
    generator = image_generator(net, size=8, fixed=True)
    with pytest.raises(LeanganError, match=words) as caught:
        read_fixed(fitting(generator, RUNTIME))
    assert len(str(caught.value).splitlines()) == 1


@usable
def test_projects_are_the_same_each_time_and_say_what_to_do(layers, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = RUNTIME.build(layers, tmp_path / "a", "fixed16")
    second = RUNTIME.build(layers, tmp_path / "b", "fixed16")
    names = [str(f.relative_to(tmp_path / "a")) for f in first.files]
    same, different, failed = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
    assert (len(same), different, failed) == (len(names), [], [])
    assert first.settings == second.settings
    assert not [f for f in first.files if str(tmp_path) in f.read_text("utf-8")]
    readme = (tmp_path / "a" / "README.md").read_text("utf-8")
    assert f"vitis-run --mode hls --tcl {first.path.name}" in readme
    assert re.search(r"\| a \||\| linear \|", readme)


@usable
def test_the_test_bench_holds_what_must_come_out(layers, tmp_path):
    RUNTIME.build(layers, tmp_path, "fixed16")
    x = np.loadtxt(tmp_path / "tb_data" / "tb_input_features.dat")
    y = np.loadtxt(tmp_path / "tb_data" / "tb_output_predictions.dat")
    expected = np.moveaxis(reference(layers, x), 1, -1).reshape(y.shape)
    assert np.array_equal(expected.astype(np.float32), y.astype(np.float32))


def test_multipliers_are_counted_within_the_limit():
    from leangan.runtimes.hls4ml_project import MULTIPLIERS, counted

    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(30, 144), nn.ReLU(), nn.Unflatten(1, (9, 4, 4)))
    needs = counted(read_fixed(drawing(net, (30,), (9, 4, 4))))
    (layer,) = needs["layers"]
    assert needs["multipliers"] == layer["multipliers"] == 30 * 144 // layer["reuse"] <= MULTIPLIERS
    assert layer["reuse"] == 5
    assert 30 * 144 * 16 < needs["weight_bits"] < 30 * 144 * 16 + 144 * 40


def test_missing_says_what_to_get(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "compiler" in RUNTIME.missing()


@usable
def test_damaged_sources_are_one_sentence(layers, tmp_path):
    artifact = RUNTIME.build(layers, tmp_path, "fixed16")
    (tmp_path / "firmware" / "ap_types" / "ap_fixed.h").write_text("#error cut short\n")
    with pytest.raises(LeanganError, match="do not compile") as caught:
        RUNTIME.open(artifact, 1)
    assert len(str(caught.value).splitlines()) == 1


@usable
def test_unknown_precision_is_refused(layers, tmp_path):
    with pytest.raises(LeanganError, match=r"fixed8.*fixed16"):
        RUNTIME.build(layers, tmp_path, "fixed8")
    assert not list(tmp_path.iterdir())
