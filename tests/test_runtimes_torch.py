import numpy as np
import pytest
import torch
from torch import nn

from leangan.generator import Generator, Port, Signature
from leangan.graph.capture import capture
from leangan.runtimes.torch_ import Torch, TorchInductor
from leangan.testing.runtimes import tiny_generator


class Flat(nn.Module):
    """Views a map that bfloat16 keeps channels last, where a view has no strides to be one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv1d(8, 4, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        return self.last(self.conv(x).reshape(n, 8, h * w)), x.mean((2, 3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_views_and_several_outputs(tmp_path, precision):
    torch.manual_seed(0)
    program = capture(Flat(), [torch.randn(2, 3, 20, 24)], [[0, 2, 3]])
    image = Port("image", "image", "NCHW", (None, 3, None, None), (1, 3, 32, 32), (-1, 1))
    flat = Port("flat", "feature", "NCL", (None, 4, None), (1, 4, 1024))
    mean = Port("mean", "feature", "NC", (None, 3), (1, 3))
    generator = Generator(program, Signature((image,), (flat, mean)))
    session = Torch().open(Torch().build(generator, tmp_path, precision), 1)
    inputs = generator.example({"N": 2, "H": 9, "W": 11})
    outputs = session.run([t.numpy() for t in inputs])
    for output, expected in zip(outputs, generator.outputs(*inputs), strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(
            output, expected.numpy(), atol=1e-6 if precision == "fp32" else 0.05
        )


def test_bf16_really_computes_so(tmp_path):
    generator = tiny_generator()
    session = Torch().open(Torch().build(generator, tmp_path, "bf16"), 1)
    (x,) = generator.example()
    difference = np.abs(session.run([x.numpy()])[0] - generator(x).numpy()).max()
    assert 1e-4 < difference < 0.1


def test_int8_is_no_precision_of_torch():
    assert Torch().precisions(quantized=True) == ()
    assert TorchInductor().precisions(quantized=True) == ()


def test_bf16_is_offered_only_with_instructions(monkeypatch):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert Torch().precisions(quantized=False) == ("fp32",)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert Torch().precisions(quantized=False) == ("fp32", "bf16")
