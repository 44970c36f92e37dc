"""Depth-to-space is found in an exported graph, and nothing else is taken for it."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture, output_shapes
from leangan.graph.phases import transposed_as_phases
from leangan.runtimes.onnx_file import to_onnx


class Shuffle(nn.Module):
    """(N, 16, H, W) in phases-first order, then `tail`."""

    def __init__(self, order=(0, 3, 4, 1, 5, 2), *, swap=False, again=False):
        super().__init__()
        self.order, self.swap, self.again = order, swap, again

    def forward(self, x):
        n, _, h, w = x.shape
        split = x.view(n, 2, 2, 4, h, w).permute(self.order)
        sizes = (n, 4, h, w * 4) if self.swap else (n, 4, h * 2, w * 2)
        y = split.reshape(sizes)
        return (y, split) if self.again else y


def model_of(module, *shape, free=(0, 2, 3)):
    sizes = tuple(None if axis in free else size for axis, size in enumerate(shape))
    port = Port("x", None, "NCHW", sizes, shape)
    program = capture(module.eval(), [torch.randn(shape)], [free])
    axes = [len(shape) for shape in output_shapes(program)]
    ports = tuple(Port(f"y{n}", None, "NCHWTS"[:n], (None,) * n, (2,) * n) for n in axes)
    return Generator(program, Signature((port,), ports))


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("free", [(0, 2, 3), (0,)])
def test_it_is_one_operator(free):
    model = to_onnx(model_of(Shuffle(), 2, 16, 5, 7, free=free))
    assert operators(model) == ["DepthToSpace"]
    assert not model.graph.initializer
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in [(5, 7), (4, 3)] if 2 in free else [(5, 7)]:
        x = torch.randn(3, 16, *size)
        np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], Shuffle()(x))


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Shuffle((0, 3, 4, 2, 5, 1)), id="another order"),
        pytest.param(Shuffle(swap=True), id="another size"),
        pytest.param(Shuffle(again=True), id="two readers"),
    ],
)
def test_what_only_looks_like_it_stays(module):
    generator = model_of(module, 2, 16, 5, 7)
    model = to_onnx(generator)
    assert "DepthToSpace" not in operators(model)
    x = torch.randn(2, 16, 5, 7)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], generator.outputs(x)[0])


def test_phases_reach_openvino_without_a_pad_or_a_transpose():
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)
    )
    before = model_of(net, 2, 3, 9, 11)
    model = to_onnx(transposed_as_phases(before))
    assert operators(model).count("DepthToSpace") == 2
    read = openvino.Core().read_model(model.SerializeToString(), b"")
    compiled = openvino.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in [(1, 3, 7, 9), (3, 3, 8, 6), (2, 3, 1, 5)]:
        x = torch.randn(shape)
        np.testing.assert_allclose(compiled(x.numpy())[0], before(x), atol=1e-5)
    kinds = [
        str(node.get_rt_info()["layerType"].astype(str))
        for node in compiled.get_runtime_model().get_ops()
    ]
    assert kinds.count("Convolution") == 8
    assert kinds.count("DepthToSpace") == 2
    assert not {"Pad", "Transpose", "Reshape", "Deconvolution"} & set(kinds)
