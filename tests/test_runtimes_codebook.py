"""Files of runtimes are as small as their weights allow, and run the same and as fast."""

from __future__ import annotations

import copy
import functools
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from task_nets import latent_generator
from torch import nn

import leangan as lg
from leangan.generator import Port
from leangan.measure.latency import Worker
from leangan.measure.size import file_bytes
from leangan.runtimes import onnxruntime_, openvino_
from leangan.runtimes.check import agree
from leangan.runtimes.few_values import indexed, pack
from leangan.runtimes.onnx_codes import drop_16_bits, pack_codes, weight_codes
from leangan.runtimes.onnx_file import to_onnx
from leangan.runtimes.onnxruntime_ import ONNXRuntime
from leangan.runtimes.openvino_ import OpenVINO
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.scheme import Scheme


class Net(nn.Module):
    """A layer of each kind; activations in between have a ReLU, which runtimes like to fuse."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(32, 64 * 16)
        self.up = nn.ConvTranspose2d(64, 32, 4, 2, 1)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, z):
        x = torch.relu(self.dense(z)).view(-1, 64, 4, 4)
        return torch.tanh(self.last(torch.relu(self.body(torch.relu(self.up(x))))))


@functools.cache
def net():
    torch.manual_seed(0)
    z = Port("z", "latent", "NC", (None, 32), (1, 32))
    image = Port("image", "image", "NCHW", (None, 3, 8, 8), (1, 3, 8, 8), (-1.0, 1.0))
    return latent_generator(Net(), [z], image, [torch.randn(2, 32)])


@functools.cache
def with_codebook(bits):
    return lg.codebook(net(), bits)


@functools.cache
def linear(word, per="channel", *, symmetric=True):
    scheme = Scheme(range="minmax", per=per, symmetric=symmetric).at(word)
    return quantize(net(), [net().example(seed=seed) for seed in range(2)], scheme=scheme)


_EXPORTED: dict[int, onnx.ModelProto] = {}


def exported(generator):
    """A copy of its own of what took a second to make; the generators here live on."""
    key = id(generator)
    if key not in _EXPORTED:
        _EXPORTED[key] = to_onnx(generator)
    return copy.deepcopy(_EXPORTED[key])


@pytest.fixture(autouse=True)
def _export_once(monkeypatch):
    for module in (onnxruntime_, openvino_):
        monkeypatch.setattr(module, "to_onnx", exported)


def build(runtime, generator, folder, precision):
    folder.mkdir()
    return runtime.build(generator, folder, precision)


def run(runtime, generator, artifact):
    """On a batch of 5, another than the typical."""
    inputs = [x.numpy() for x in generator.example({"N": 5}, seed=3)]
    return runtime.open(artifact, 1).run(inputs)[0]


def operators(artifact, folder):
    """What ONNX Runtime runs after its optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(artifact.path), options)
    return {n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node}


def kinds(artifact):
    """Types of the stored tensors of the ONNX file."""
    graph = onnx.load(artifact.path).graph
    return Counter(TensorProto.DataType.Name(t.data_type) for t in graph.initializer)


def executed(artifact):
    """Kinds of nodes that OpenVINO's plugin runs, without its constants."""
    compiled = openvino.Core().compile_model(
        artifact.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    nodes = compiled.get_runtime_model().get_ops()
    told = (
        (openvino_._told(n, "layerType"), openvino_._told(n, "runtimePrecision")) for n in nodes
    )
    return Counter(kind for kind in told if kind[0] != "Const")


def ir_types(artifact):
    model = openvino.Core().read_model(artifact.path)
    return Counter(
        n.get_element_type().get_type_name()
        for n in model.get_ops()
        if n.get_type_name() == "Constant" and np.prod(n.get_output_shape(0)) > 256
    )


def opset(artifact):
    return onnx.load(artifact.path).opset_import[0].version


def of_levels(shape, axis, groups, levels):
    """A weight whose `groups` of channels along `axis` have `levels` values each."""
    random = np.random.default_rng(0)
    table = random.standard_normal((groups, levels)).astype(np.float32)
    channel = np.arange(shape[axis]) * groups // shape[axis]
    channel = channel.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    places = random.integers(0, levels, shape)
    return np.ascontiguousarray(table[np.broadcast_to(channel, shape), places])


@pytest.mark.parametrize(
    ("shape", "axis", "groups", "levels", "bits"),
    [
        ((64, 32, 3, 3), 0, 1, 14, 4),
        ((64, 32, 3, 3), 0, 8, 11, 4),
        ((64, 48, 9), 1, 6, 14, 4),
        ((64, 256), 1, 1, 200, 8),
        ((8, 1024, 5), 0, 2, 200, 8),
        ((40000,), 0, 1, 3, 4),
    ],
)
def test_few_values_become_table_and_indices_bit_for_bit(shape, axis, groups, levels, bits):
    weight = of_levels(shape, axis, groups, levels)
    weight.reshape(-1)[:2] = -0.0, 0.0  # equal, and yet different bits
    found = indexed(weight)
    assert found.bits == bits
    assert (found.offsets is None) == (groups == 1)
    places = found.indices.astype(np.int64) + (0 if found.offsets is None else found.offsets)
    np.testing.assert_array_equal(found.table[places].view(np.uint32), weight.view(np.uint32))


@pytest.mark.parametrize(
    "weight",
    [
        np.random.default_rng(0).standard_normal((64, 32, 3, 3)).astype(np.float32),
        of_levels((64, 32, 3, 3), 0, 1, 300).astype(np.float32),
        of_levels((8, 8), 0, 1, 4),  # fewer bytes than the operators take
        of_levels((64, 32, 3, 3), 0, 1, 4).astype(np.float16),
        np.float32(1.0).reshape(()),
    ],
    ids=["plain", "300 levels", "small", "half", "scalar"],
)
def test_what_would_not_be_smaller_stays(weight):
    assert indexed(weight) is None


@pytest.mark.parametrize(("kind", "low"), [(TensorProto.UINT4, 0), (TensorProto.INT4, -8)])
@pytest.mark.parametrize("count", [32, 33])
def test_packed_codes_are_what_onnx_unpacks(kind, low, count):
    codes = (np.arange(count) % 16 + low).astype(np.int8)
    tensor = helper.make_tensor("x", kind, codes.shape, pack(codes).tobytes(), raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


@pytest.mark.parametrize(("bits", "smaller", "version"), [(2, 5, 21), (4, 5, 21), (7, 3, 20)])
def test_onnx_carries_codebooks_and_loading_expands_them(
    tmp_path, monkeypatch, bits, smaller, version
):
    generator = with_codebook(bits)
    small = build(ONNXRuntime(), generator, tmp_path / "small", "fp32")
    monkeypatch.setattr(onnxruntime_, "index_weights", lambda model: 0)
    plain = build(ONNXRuntime(), generator, tmp_path / "plain", "fp32")
    onnx.checker.check_model(onnx.load(small.path), full_check=True)
    assert file_bytes(plain) > smaller * file_bytes(small)
    assert (opset(plain), opset(small)) == (20, version)
    assert kinds(small)["UINT4" if version == 21 else "UINT8"] >= 3
    assert operators(small, tmp_path) == operators(plain, tmp_path)
    results = [run(ONNXRuntime(), generator, artifact) for artifact in (small, plain)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("bits", [3, 8])
def test_ir_carries_codebooks_and_compiling_expands_them(tmp_path, monkeypatch, bits):
    generator = with_codebook(bits)
    small = build(OpenVINO(), generator, tmp_path / "small", "fp32")
    monkeypatch.setattr(openvino_, "index_constants", lambda model: 0)
    plain = build(OpenVINO(), generator, tmp_path / "plain", "fp32")
    sizes = [a.files[1].stat().st_size for a in (plain, small)]
    assert sizes[0] > (5 if bits == 3 else 3) * sizes[1]
    assert executed(small) == executed(plain)
    results = [run(OpenVINO(), generator, artifact) for artifact in (small, plain)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("runtime", [ONNXRuntime(), OpenVINO()], ids=lambda r: r.name)
def test_a_small_file_agrees_in_a_fresh_process(tmp_path, runtime):
    artifact = build(runtime, with_codebook(4), tmp_path / "out", "fp32")
    with Worker(artifact, 1) as worker:
        found = agree(with_codebook(4), artifact, worker)
    assert {a.size for a in found} == {"N 1", "N 3"}
    assert all(a.largest_difference < 1e-6 for a in found)


def test_a_plain_generator_is_written_as_before(tmp_path, monkeypatch):
    model = exported(net())
    before = model.SerializeToString(deterministic=True)
    assert pack_codes(model) == 0
    assert drop_16_bits(model) == 0
    assert onnxruntime_.index_weights(model) == 0
    assert model.SerializeToString(deterministic=True) == before
    assert model.opset_import[0].version == 20
    artifact = build(OpenVINO(), net(), tmp_path / "ir", "fp32")
    assert set(ir_types(artifact)) == {"f32"}


WEIGHT_ONLY = [("w4", "channel", True), ("w4", "group", True), ("w3", "channel", False),
               ("w8", "channel", True), ("w8", "tensor", False)]  # fmt: skip


@pytest.mark.parametrize(("word", "per", "symmetric"), WEIGHT_ONLY)
def test_weights_alone_of_few_bits_leave_float_kernels_in_onnxruntime(
    tmp_path, word, per, symmetric
):
    generator = linear(word, per, symmetric=symmetric)
    artifact = build(ONNXRuntime(), generator, tmp_path / "out", "int8")
    onnx.checker.check_model(onnx.load(artifact.path), full_check=True)
    stored = kinds(artifact)
    assert stored["INT4" if word != "w8" else "INT8"] == 4
    assert opset(artifact) == (20 if word == "w8" else 21)
    plain = build(ONNXRuntime(), net(), tmp_path / "plain", "fp32")
    # A Gemm's weight is laid out anew on loading, so that the graph ends with the same kernels.
    assert operators(artifact, tmp_path) == operators(plain, tmp_path)
    expected = generator(*generator.example({"N": 5}, seed=3)).numpy()
    np.testing.assert_allclose(run(ONNXRuntime(), generator, artifact), expected, atol=1e-5)


@pytest.mark.parametrize(("word", "per", "symmetric"), WEIGHT_ONLY)
def test_weights_alone_of_few_bits_leave_float_kernels_in_openvino(tmp_path, word, per, symmetric):
    generator = linear(word, per, symmetric=symmetric)
    artifact = build(OpenVINO(), generator, tmp_path / "out", "int8")
    assert ir_types(artifact)["i4" if word != "w8" else "i8"] == 4
    plain = build(OpenVINO(), net(), tmp_path / "plain", "fp32")
    assert executed(artifact) == executed(plain)
    expected = generator(*generator.example({"N": 5}, seed=3)).numpy()
    np.testing.assert_allclose(run(OpenVINO(), generator, artifact), expected, atol=1e-5)


def test_integer_kernels_take_codes_of_4_bits(tmp_path, monkeypatch):
    generator = linear("w4a8")
    small = [build(r, generator, tmp_path / r.name, "int8") for r in (ONNXRuntime(), OpenVINO())]
    assert kinds(small[0])["INT4"] == 4
    assert ir_types(small[1])["i4"] == 4
    monkeypatch.setattr(onnxruntime_, "pack_codes", lambda model: 0)
    monkeypatch.setattr(openvino_, "pack_constants", lambda model, kernels: 0)
    plain = [
        build(r, generator, tmp_path / f"plain-{r.name}", "int8")
        for r in (ONNXRuntime(), OpenVINO())
    ]
    assert operators(small[0], tmp_path) == operators(plain[0], tmp_path)
    assert executed(small[1]) == executed(plain[1])
    for runtime, a, b in zip((ONNXRuntime(), OpenVINO()), small, plain, strict=True):
        assert file_bytes(b) > 1.4 * file_bytes(a)
        np.testing.assert_array_equal(run(runtime, generator, a), run(runtime, generator, b))
    session = OpenVINO().open(small[1], 1)
    session.run([x.numpy() for x in generator.example()])
    assert session.int8_share() > 0.9


@pytest.mark.parametrize("runtime", [ONNXRuntime(), OpenVINO()], ids=lambda r: r.name)
@pytest.mark.parametrize("word", ["w8a16", "w4a16"])
def test_inputs_of_16_bits_run_right(tmp_path, runtime, word):
    """Weights beside them are not rounded once more, and no ReLU goes missing."""
    generator = linear(word)
    artifact = build(runtime, generator, tmp_path / "out", "int8")
    inputs = generator.example()
    (found,) = runtime.open(artifact, 1).run([x.numpy() for x in inputs])
    np.testing.assert_allclose(found, generator(*inputs).numpy(), atol=3e-4)


@pytest.mark.parametrize(
    ("word", "per", "kernels"),
    [
        ("w4a8", "channel", {"integer": 4}),
        ("w4", "channel", {"float": 4}),
        ("w8a16", "channel", {"rounded": 4}),
        # The linear layer has one group in each channel.
        ("w8a8", "group", {"rounded": 3, "integer": 1}),
    ],
)
def test_what_layers_compute_in_is_read_from_the_file(word, per, kernels):
    found = weight_codes(exported(linear(word, per)))
    assert Counter(found.values()) == kernels
