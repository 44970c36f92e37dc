import subprocess
import sys

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.graph.doors import winograd_rows
from leangan.measure.environment import environment
from leangan.runtimes import openvino_
from leangan.runtimes.openvino_ import OpenVINO
from leangan.runtimes.openvino_probe import saturates
from leangan.testing.runtimes import tiny_generator, tiny_int8_generator


def build(generator, folder, precision):
    folder.mkdir()
    return OpenVINO().build(generator, folder, precision)


def weight_types(artifact):
    """Element types of the stored tensors of four axes, which are kernels here."""
    model = openvino.Core().read_model(artifact.path)
    return sorted(
        c.get_element_type().get_type_name()
        for c in model.get_ops()
        if c.get_type_name() == "Constant" and np.prod(c.get_output_shape(0)) > 16 * 12
    )


def test_only_float_weights_of_bf16_artifacts_are_halved(tmp_path):
    exact = build(tiny_generator(), tmp_path / "fp32", "fp32")
    half = build(tiny_generator(), tmp_path / "bf16", "bf16")
    assert set(weight_types(exact)) == {"f32"}
    # The first kernel has 432 weights, too few to bother.
    assert weight_types(half) == ["f16"] * 4 + ["f32"]
    sizes = [a.files[1].stat().st_size for a in (exact, half)]
    assert sizes[1] < 0.6 * sizes[0]


def test_int8_weights_stay_int8(tmp_path):
    plain = build(tiny_int8_generator(), tmp_path / "int8", "int8")
    mixed = build(tiny_int8_generator(), tmp_path / "mixed", "int8+bf16")
    assert weight_types(plain) == ["f32"] + ["i8"] * 4
    assert weight_types(mixed) == ["f16"] + ["i8"] * 4


def test_weights_beyond_half_precision_stay_float(tmp_path):
    net = nn.Conv2d(3, 64, 3)
    with torch.no_grad():
        net.weight[5] = 1e6
    program = capture(net, [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    image = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 32, 32), (-1, 1))
    feature = Port("f", "feature", "NCHW", (None, 64, None, None), (1, 64, 30, 30))
    generator = Generator(program, Signature((image,), (feature,)))
    artifact = build(generator, tmp_path / "bf16", "bf16")
    assert weight_types(artifact) == ["f32"]
    (out,) = OpenVINO().open(artifact, 1).run([np.ones((1, 3, 32, 32), np.float32)])
    assert np.isfinite(out).all()


def normalized(shift):
    """A convolution with a bias, a shift of its map where there is one, and a norm."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True)
            self.shift = nn.Parameter(torch.randn(shift)) if shift else None
            nn.init.normal_(self.conv.bias, 0, 3)
            nn.init.normal_(self.norm.bias)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y if self.shift is None else y + self.shift)

    net = Net().eval()
    program = capture(net, [torch.randn(2, 3, 20, 24)], [[0]])
    image = Port("image", "image", "NCHW", (None, 3, 20, 24), (1, 3, 20, 24), (-1, 1))
    feature = Port("f", "feature", "NCHW", (None, 6, 18, 22), (1, 6, 18, 22))
    return net, Generator(program, Signature((image,), (feature,)))


@pytest.mark.parametrize(("shift", "kept"), [(None, 0), ((1, 6, 18, 1), 1)])
def test_biases_that_a_norm_takes_away_are_left_out(tmp_path, shift, kept):
    net, generator = normalized(shift)
    artifact = build(generator, tmp_path / "fp32", "fp32")
    ops = openvino.Core().read_model(artifact.path).get_ops()
    sources = [n.input_value(0).get_node() for n in ops if n.get_type_name() == "MVN"]
    assert [s.get_type_name() for s in sources] == (["Add"] if kept else ["Convolution"])
    x = torch.randn(2, 3, 20, 24)
    (out,) = OpenVINO().open(artifact, 1).run([x.numpy()])
    torch.testing.assert_close(torch.tensor(out), net(x), atol=1e-4, rtol=1e-4)


def test_ends_keep_their_names(tmp_path):
    artifact = build(tiny_generator(), tmp_path / "fp32", "fp32")
    compiled = openvino.Core().compile_model(artifact.path, "CPU")
    assert compiled.input("image").get_partial_shape().to_string() == "[?,3,?,?]"
    assert compiled.output("output_image") == compiled.output(0)


@pytest.mark.parametrize(
    ("capabilities", "floats", "eights"),
    [
        (["FP32", "INT8", "BF16"], ("fp32", "bf16"), ("int8", "int8+bf16")),
        (["FP32", "INT8"], ("fp32",), ("int8",)),
        (["FP32"], ("fp32",), ()),
    ],
)
def test_precisions_are_what_the_cpu_has(monkeypatch, capabilities, floats, eights):
    class Core:
        def get_property(self, device, name):
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

    monkeypatch.setattr(openvino_, "_core", Core)
    assert OpenVINO().precisions(quantized=False) == floats
    assert OpenVINO().precisions(quantized=True) == eights


def test_share_follows_what_was_quantized(tmp_path):
    """All but the transposed convolution: 16 * 16 * 9 of its weights per input pixel."""
    session = OpenVINO().open(build(tiny_int8_generator(), tmp_path / "int8", "int8"), 1)
    assert session.int8_share() is None, "nothing has run yet"
    session.run([np.zeros((1, 3, 32, 32), np.float32)])
    low, high = 16 * 16, 32 * 32
    eight = low * 27 * 16 + 2 * low * 144 * 16 + high * 144 * 12
    assert session.int8_share() == pytest.approx(eight / (eight + low * 16 * 144))


def test_nobody_is_told_that_openvino_was_imported():
    words = "import leangan.runtimes, openvino.tools.ovc.telemetry_utils as t; print(t.tm.__name__)"
    command = [sys.executable, "-c", words]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_that_are_computed_are_stored_as_they_were_and_computed_on_loading(
    tmp_path, precision
):
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1))
    program = capture(net.eval(), [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    image = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 32, 32), (-1, 1))
    feature = Port("f", "feature", "NCHW", (None, 64, None, None), (1, 64, 32, 32))
    plain = Generator(program, Signature((image,), (feature,)))
    before, after = (
        build(generator, tmp_path / name, precision)
        for name, generator in (("plain", plain), ("rows", winograd_rows(plain)))
    )
    sums = 6 * 64 * 6 * 4  # of the inputs, in float32
    weights = after.files[1].stat().st_size
    assert weights <= before.files[1].stat().st_size + sums + 1024
    session = OpenVINO().open(after, 1)
    for size in (32, 30):
        x = np.random.default_rng(0).random((1, 3, size, size), np.float32)
        (out,) = session.run([x])
        expected = plain.outputs(torch.from_numpy(x))[0].numpy()
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        assert np.abs(out - expected).max() < tolerance * np.ptp(expected)
    kinds = {
        str(node.get_rt_info()["layerType"].astype(str))
        for node in session._compiled.get_runtime_model().get_ops()
    }
    assert not {"MatMul", "FullyConnected"} & kinds


@pytest.mark.skipif(not environment(1)["instructions"], reason="flags are told by Linux on x86")
def test_sums_are_clipped_where_the_cpu_cannot_add_four_products_at_once():
    flags = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(environment(1)["instructions"])
    assert saturates() == (not flags)
