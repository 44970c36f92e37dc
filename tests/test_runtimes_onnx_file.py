import dataclasses
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leangan.errors import LeanganError
from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.runtimes import onnx_file
from leangan.runtimes.onnx_file import to_onnx, write_onnx
from leangan.runtimes.onnxruntime_ import quantize_biases
from leangan.testing.runtimes import tiny_generator, tiny_int8_generator


class Operators(nn.Module):
    """What generators are built of, besides plain convolutions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.plain = nn.InstanceNorm2d(8)
        self.groups = nn.GroupNorm(2, 8)
        self.batch = nn.BatchNorm2d(8)
        self.prelu = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.tokens = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.shuffled = nn.Conv2d(8, 32, 1)
        self.last = nn.Conv2d(16, 3, 3)

    def forward(self, x):
        x = F.leaky_relu(self.instance(self.first(x)), 0.2)
        x = self.prelu(self.plain(x))
        x = self.batch(self.up(self.groups(x)))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        n, c, h, w = x.shape
        tokens = self.tokens(x.permute(0, 2, 3, 1).reshape(n, h * w, c))
        x = x + tokens.view(n, h, w, c).permute(0, 3, 1, 2)
        x = torch.cat([x, F.pixel_unshuffle(F.pixel_shuffle(self.shuffled(x), 2), 2)[:, :8]], 1)
        return torch.tanh(self.last(F.pad(x, (1, 1, 1, 1), mode="reflect")))


def image(name, **more):
    shape, typical = (None, 3, None, None), (1, 3, 32, 32)
    return Port(name, "image", "NCHW", shape, typical, (-1, 1), **more)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tiny_generator(), tmp_path_factory.mktemp("float") / "tiny.onnx")


@pytest.fixture(scope="module")
def tiny_int8(tmp_path_factory):
    return write_onnx(tiny_int8_generator(), tmp_path_factory.mktemp("int8") / "tiny.onnx")


def test_operators_run_at_other_sizes_in_both_runtimes(tmp_path):
    torch.manual_seed(0)
    net = Operators().eval()
    program = capture(net, [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    generator = Generator(program, Signature((image("image"),), (image("result"),)))
    path = write_onnx(generator, tmp_path / "net.onnx")
    ort = onnxruntime.InferenceSession(path)
    ov = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in [(2, 3, 20, 24), (1, 3, 33, 47), (3, 3, 18, 31)]:
        x = torch.randn(shape)
        expected = generator(x).numpy()
        for result in (ort.run(None, {"image": x.numpy()})[0], ov(x.numpy())["result"]):
            np.testing.assert_allclose(result, expected, atol=1e-5)


def test_names_are_readable_and_distinct(tiny):
    """The signature calls both input and output `image`, which ONNX cannot."""
    model = onnx.load(tiny)
    found = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert found == {
        "image": ["batch", 3, "height", "width"],
        "output_image": ["batch", 3, "output_height", "output_width"],
    }
    onnx.checker.check_model(model, full_check=True)


def test_nothing_of_this_machine_is_written(tiny):
    content = tiny.read_bytes()
    for trace in (b"site-packages", b"forward(", str(tiny.parent).encode(), b"testing"):
        assert trace not in content


def test_int8_weights_are_stored_as_int8(tiny_int8):
    model = onnx.load(tiny_int8)
    kinds = {
        t.name: (t.data_type, len(t.dims))
        for t in model.graph.initializer
        if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT)
    }
    weights = [kind for kind, axes in kinds.values() if axes == 4]
    # Four convolutions; the transposed one is not quantized by the test's quantizer.
    assert sorted(weights) == sorted([onnx.TensorProto.INT8] * 4 + [onnx.TensorProto.FLOAT])
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_a_lost_free_size_is_an_error(tmp_path):
    """The program has fixed a size that its signature says is free."""
    program = capture(nn.Conv2d(3, 3, 3), [torch.randn(2, 3, 20, 24)], [[0, 2]])
    generator = Generator(program, Signature((image("image"),), (image("result"),)))
    with pytest.raises(LeanganError, match=r"'image' into \(None, 3, None, 24\)"):
        write_onnx(generator, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_unknown_operator_is_one_sentence(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    program = capture(Odd(), [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    generator = Generator(program, Signature((image("image"),), (image("result"),)), name="odd")
    with pytest.raises(LeanganError, match="odd cannot be written as ONNX") as caught:
        write_onnx(generator, tmp_path / "net.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose1d(4, 6, 5, 3, 2, output_padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, (3, 5), (2, 1), (1, 0), dilation=(1, 2)),
        nn.ConvTranspose3d(4, 6, 3, 2, 1, bias=False),
        nn.Softshrink(0.3),
    ],
)
def test_operators_without_a_form_of_their_own(module, tmp_path):
    axes = {"ConvTranspose1d": 1, "ConvTranspose3d": 3}.get(type(module).__name__, 2)
    layout, shape = "NCHWT"[: axes + 2], (None, 4, *[None] * axes)
    port = Port("x", None, layout, shape, (1, 4, *[8] * axes))
    sizes = (7, 9, 5)[:axes]
    free = [[0, *range(2, axes + 2)]]
    program = capture(module.eval(), [torch.randn(2, 4, *(n + 3 for n in sizes))], free)
    results = [tuple(n.meta["val"].shape) for n in program.graph.output_node().args[0]]
    out = Port("y", None, layout, (None, results[0][1], *[None] * axes), (1, 4, *[8] * axes))
    generator = Generator(program, Signature((port,), (out,)))
    session = onnxruntime.InferenceSession(write_onnx(generator, tmp_path / "net.onnx"))
    x = torch.randn(1, 4, *sizes)
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, generator(x).numpy(), atol=1e-5)


def test_one_program_is_exported_once_and_everyone_gets_a_copy(monkeypatch):
    exported = []
    export = onnx_file._export
    monkeypatch.setattr(onnx_file, "_MADE", WeakKeyDictionary())
    monkeypatch.setattr(onnx_file, "_export", lambda g: exported.append(g) or export(g))
    generator = tiny_generator()
    first = to_onnx(generator)
    wanted = first.SerializeToString()
    del first.graph.node[:]
    assert to_onnx(generator).SerializeToString() == wanted
    assert len(exported) == 1
    (port,) = generator.signature.inputs
    signature = Signature((dataclasses.replace(port, name="photo"),), generator.signature.outputs)
    renamed = dataclasses.replace(generator, signature=signature)
    assert to_onnx(renamed).graph.input[0].name == "photo"


def test_several_inputs_keep_their_order_and_share_sizes(tmp_path):
    class Two(nn.Module):
        def forward(self, image, mask):
            return image * mask, mask - image

    inputs = [torch.randn(2, 3, 8, 10), torch.randn(2, 1, 8, 10)]
    program = capture(Two(), inputs, [[0, 2, 3]] * 2)
    mask = Port("mask", "mask", "NCHW", (None, 1, None, None), (1, 1, 32, 32), (0, 1))
    signature = Signature((image("image"), mask), (image("image"), image("mask")))
    path = write_onnx(Generator(program, signature), tmp_path / "two.onnx")
    session = onnxruntime.InferenceSession(path)
    assert [v.name for v in session.get_inputs()] == ["image", "mask"]
    assert [v.name for v in session.get_outputs()] == ["output_image", "output_mask"]
    a, b = (np.random.rand(*s).astype("float32") for s in ((1, 3, 5, 7), (1, 1, 5, 7)))
    product, difference = session.run(None, {"image": a, "mask": b})
    np.testing.assert_allclose(product, a * b)
    np.testing.assert_allclose(difference, b - a)


def test_batch_of_another_port_is_not_forgotten(tmp_path):
    """A signature whose batch is fixed matches a program whose batch is fixed."""
    port = dataclasses.replace(image("image"), shape=(2, 3, None, None), typical=(2, 3, 32, 32))
    program = capture(nn.Conv2d(3, 3, 3), [torch.randn(2, 3, 20, 24)], [[2, 3]])
    path = write_onnx(Generator(program, Signature((port,), (image("r"),))), tmp_path / "n.onnx")
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [2, 3, "height", "width"]


def test_biases_become_int32_within_half_a_step(tiny_int8):
    model = onnx.load(tiny_int8)
    before = onnxruntime.InferenceSession(tiny_int8)
    assert quantize_biases(model) == 4
    kinds = [t.data_type for t in model.graph.initializer]
    assert kinds.count(onnx.TensorProto.INT32) == 4
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    after = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = {"image": np.random.default_rng(0).random((1, 3, 32, 32), np.float32)}
    np.testing.assert_allclose(after.run(None, x)[0], before.run(None, x)[0], atol=0.02)


def test_biases_of_float_convolutions_stay(tiny):
    model = onnx.load(tiny)
    before = model.SerializeToString(deterministic=True)
    assert quantize_biases(model) == 0
    assert model.SerializeToString(deterministic=True) == before
