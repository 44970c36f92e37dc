import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from task_nets import image_generator
from torch import nn
from torch.nn import functional as F

from leangan.errors import LeanganError
from leangan.graph.observe import Reach
from leangan.graph.sizes import fix_sizes
from leangan.runtimes import coverage, fitting, litert_, litert_file, litert_ports
from leangan.runtimes.litert_ import LiteRT
from leangan.runtimes.litert_file import operators, outside_int8, ports, unpack
from leangan.techniques.quantize_linear import quantize
from leangan.testing.runtimes import RuntimeTestCase, tiny_generator, tiny_int8_generator


@pytest.fixture(autouse=True, scope="module")
def _convert_once():
    """The converter takes seconds, whatever the size of the network."""
    made = {}

    def once(generator):
        if id(generator) not in made:
            made[id(generator)] = generator, convert(generator)
        return made[id(generator)][1]

    convert = litert_.to_tflite
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_, "to_tflite", once)
        yield


@functools.cache
def tiny(quantized):
    return fitting(tiny_int8_generator() if quantized else tiny_generator(), LiteRT())


class TestLiteRT(RuntimeTestCase):
    runtime = LiteRT()

    def generator(self, *, quantized):
        return tiny(quantized)


def need_it():
    if missing := LiteRT().missing():
        pytest.skip(missing)


class Deconvolved(nn.Module):
    """What the converter leaves in float, what rounds at once, and a last layer with outliers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.spread = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.up(x))
        return torch.tanh(self.last(F.leaky_relu(self.spread(x), 0.2)))


@functools.cache
def quantized():
    generator = image_generator(Deconvolved(), size=16, factor=2, value_range=(-1.0, 1.0))
    pictures = [generator.example(seed=seed) for seed in range(6)]
    made = quantize(generator, pictures)
    reach = made.history[-1].measured["reach"]["spread"]
    reach["deviation"] = [v / 30 for v in reach["deviation"]]  # as if it had rare outliers
    return fix_sizes(made)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    need_it()
    return LiteRT().build(quantized(), tmp_path_factory.mktemp("eight"), "int8")


def test_layers_run_in_8_bits_but_for_spread_ones(eight):
    found = operators(eight.path.read_bytes())
    weighted = [(o.kind, o.integer) for o in found if o.macs]
    assert weighted == [
        ("CONV_2D", True),
        ("TRANSPOSE_CONV", True),
        ("CONV_2D", False),
        ("CONV_2D", True),
    ]
    assert not {o.kind for o in found} & {"SHAPE", "STRIDED_SLICE", "PACK"}
    assert "1 x CONV_2D" in outside_int8(eight.path.read_bytes())
    (told,) = [line for line in coverage(eight) if line.startswith("Not in 8 bits: ")]
    assert "1 x CONV_2D" in told
    assert not [line for line in coverage(replace(eight, precision="fp32")) if "8 bits" in line]
    macs = [16 * 16 * 27 * 8, 16 * 16 * 16 * 64, 32 * 32 * 9 * 64, 32 * 32 * 72 * 3]
    assert LiteRT().open(eight, 1).int8_share() == pytest.approx(1 - macs[2] / sum(macs))


def test_numbers_are_the_generators_own(eight):
    """Steps and zero points of inputs, 128 lower; codes of weights."""
    module = quantized().module()
    wanted = {
        (round(float(n.args[1]), 7), int(n.args[2]) - 128)
        for n in module.graph.nodes
        if str(n.target).endswith("quantize_per_tensor.default")
    }
    model = unpack(eight.path.read_bytes())
    tensors = model.subgraphs[0].tensors
    found, codes = set(), set()
    for tensor in tensors:
        numbers, data = tensor.quantization, model.buffers[tensor.buffer].data
        if data is None and numbers is not None and numbers.scale is not None:
            found.add((round(float(numbers.scale[0]), 7), int(numbers.zeroPoint[0])))
        elif data is not None:
            codes.add(tuple(sorted(np.frombuffer(bytes(data), np.int8))))
    assert wanted <= found
    for name, padding in (("first", 0), ("up", 7 * 64), ("last", 0)):
        stored = module.get_buffer(f"{name}.weight_int8").flatten().tolist()
        assert tuple(sorted(stored + [0] * padding)) in codes


def test_output_is_that_of_the_quantized_generator(eight):
    session = LiteRT().open(eight, 1)
    x = quantized().example(seed=9)[0]
    expected, (found,) = quantized()(x).numpy(), session.run([x.numpy()])
    error = np.square(found - expected).mean() / np.square(np.ptp(expected))
    assert -10 * np.log10(error) > 40


def test_all_ports_are_bytes_on_request_and_ends_of_the_range_are_kept(eight, tmp_path):
    artifact = LiteRT().build(quantized(), tmp_path, "int8-io")
    session = LiteRT().open(artifact, 1)
    model = unpack(artifact.path.read_bytes())
    (signature,) = model.signatureDefs
    types = [
        model.subgraphs[0].tensors[p.tensorIndex].type
        for p in (*signature.inputs, *signature.outputs)
    ]
    assert types == [9, 9]  # TensorType.INT8
    x = quantized().example(seed=9)[0].numpy()
    (found,), (before,) = session.run([x]), LiteRT().open(eight, 1).run([x])
    step = 2 / 254
    assert np.abs(found - before).max() <= 0.51 * step
    assert np.abs(found / step - np.rint(found / step)).max() < 1e-3
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        scale, zero = litert_ports._scale(low, high)
        codes = np.rint(np.array([low, 0.0, high]) / scale) + zero
        assert codes.min() >= -128
        assert codes.max() == 127
        assert ((codes - zero) * scale).tolist() == pytest.approx([low, 0.0, high])


def test_a_port_of_unknown_range_has_no_bytes(eight):
    port = replace(quantized().signature.outputs[0], range=None)
    model = unpack(eight.path.read_bytes())
    with pytest.raises(LeanganError, match="'output'"):
        litert_ports.byte_ports(model, quantized().signature.inputs, [port])


def test_half_precision_halves_the_file(tmp_path):
    need_it()
    files = []
    for precision in ("fp32", "fp16"):
        (tmp_path / precision).mkdir()
        artifact = LiteRT().build(tiny(False), tmp_path / precision, precision)
        files.append(artifact.path.stat().st_size)
    assert files[1] < 0.65 * files[0]


def test_ports_keep_their_names(eight):
    assert ports(unpack(eight.path.read_bytes())) == (["image"], ["output"])


def test_linear_layers_run_in_8_bits_as_well():
    """One position for each channel has no deviation of its own: that of all samples counts."""
    reach = Reach(1)
    for seed in range(8):
        reach.see(torch.randn(1, 6, generator=torch.Generator().manual_seed(seed)))
    assert (reach.deviation > 0.2).all()
    wide = Reach(1)
    wide.see(torch.tensor([[[0.0, 2.0], [1.0, 1.0]]]))
    assert wide.deviation.tolist() == [1.0, 0.0]


def test_kinds_that_the_gpu_delegate_leaves_are_counted(monkeypatch):
    found = [
        litert_file.Operator(kind, ("FLOAT32",), "y", 0, False)
        for kind in ("CONV_2D", "GATHER_ND", "QUANTIZE", "GATHER_ND")
    ]
    monkeypatch.setattr(litert_file, "operators", lambda data: found)
    assert litert_file.outside_gpu(b"") == "2 x GATHER_ND"
