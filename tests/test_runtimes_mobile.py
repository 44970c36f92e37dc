import pytest
import torch
import torch.nn.functional as F
from task_nets import Twice, image_generator
from torch import nn

import leangan as lg
from leangan.errors import UsageError
from leangan.graph.sizes import fix_sizes
from leangan.runtimes import coverage
from leangan.runtimes.coreml_ import CoreML
from leangan.runtimes.executorch_ import ExecuTorch
from leangan.runtimes.ncnn_ import Ncnn
from leangan.search.compare import runtime_names
from leangan.techniques.quantize_linear import quantize
from leangan.testing.runtimes import RuntimeTestCase, tiny_generator


class TestExecuTorch(RuntimeTestCase):
    runtime = ExecuTorch()


class _SharedInput(nn.Module):
    """Two layers and a sum that read one value, which no layer has laid out before."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = F.leaky_relu(x, 0.2)
        return torch.tanh(self.a(x) + self.b(x) + x)


def test_executorch_layers_that_read_one_value_share_a_delegate(tmp_path):
    if missing := ExecuTorch().missing():
        pytest.skip(missing)
    torch.manual_seed(0)
    net = image_generator(_SharedInput(), size=16)
    net = fix_sizes(quantize(net, [net.example(seed=s) for s in range(2)]))
    artifact = ExecuTorch().build(net, tmp_path, "int8")
    assert coverage(artifact) == []
    (x,) = net.example(seed=3)
    (found,) = ExecuTorch().open(artifact, 1).run([x.numpy()])
    assert (torch.from_numpy(found) - net(x)).abs().max() < 0.02


class _Mirrored(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x)).flip(-1)


def test_executorch_says_what_xnnpack_does_not_take(tmp_path):
    if missing := ExecuTorch().missing():
        pytest.skip(missing)
    net = fix_sizes(image_generator(_Mirrored(), size=16))
    artifact = ExecuTorch().build(net, tmp_path, "fp32")
    assert coverage(artifact) == ["Not for XNNPACK: 1 x aten.flip."]


class TestNcnn(RuntimeTestCase):
    runtime = Ncnn()
    int8 = False


def test_what_ncnn_was_given_is_read_back(tmp_path):
    if missing := Ncnn().missing():
        pytest.skip(missing)
    net = image_generator(Twice(), size=24, factor=2)
    artifact = Ncnn().build(net, tmp_path, "fp32")
    (x,) = net.example({"H": 20, "W": 28})
    assert torch.allclose(lg.load(artifact.path)(x), net(x), atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_core_ml_package_holds_the_generator(tmp_path, precision, tolerance):
    pytest.importorskip("coremltools")
    from mil_reference import run

    net = fix_sizes(tiny_generator())
    artifact = CoreML().build(net, tmp_path, precision)
    (x,) = net.example(seed=1)
    (found,) = run(artifact.path, {"image": x})
    assert (found.float() - net(x)).abs().max() < tolerance


@pytest.mark.skipif(CoreML.runs_here, reason="an Apple system runs it")
def test_what_runs_elsewhere_is_written_and_not_called_proved(tmp_path):
    pytest.importorskip("coremltools")
    artifact, found = lg.export(tiny_generator(), tmp_path / "out", runtime="coreml")
    assert artifact.path.is_dir()
    assert not found
    with pytest.raises(UsageError, match="leangan export --to coreml"):
        runtime_names(["coreml"])
