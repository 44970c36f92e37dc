import numpy as np
import pytest

from leangan import runtimes
from leangan.errors import BackendMissing, LeanganError
from leangan.runtimes import nvidia
from leangan.runtimes.onnxruntime_ import ONNXRuntime, ONNXRuntimeSession
from leangan.runtimes.onnxruntime_gpu import ONNXRuntimeCUDA, ONNXRuntimeTensorRT
from leangan.runtimes.torch_ import Torch
from leangan.runtimes.torch_cuda import TorchCUDA
from leangan.search.compare import runtime_names
from leangan.testing.runtimes import RuntimeTestCase, tiny_generator

GPU = (ONNXRuntimeCUDA(), ONNXRuntimeTensorRT(), TorchCUDA())


class TestONNXRuntimeCUDA(RuntimeTestCase):
    runtime = ONNXRuntimeCUDA()
    int8 = False


class TestONNXRuntimeTensorRT(RuntimeTestCase):
    runtime = ONNXRuntimeTensorRT()
    int8 = False


class TestTorchCUDA(RuntimeTestCase):
    runtime = TorchCUDA()
    int8 = False


@pytest.mark.parametrize("runtime", GPU, ids=lambda runtime: runtime.name)
def test_without_a_gpu_it_is_hidden_and_refused_in_a_sentence(runtime, monkeypatch):
    monkeypatch.setattr(nvidia, "has_gpu", lambda: False)
    assert runtime.name not in [r.name for r in runtimes.available()]
    with pytest.raises(BackendMissing, match=f"{runtime.name} cannot be used here.*NVIDIA GPU"):
        runtime_names([runtime.name])


def test_a_package_without_the_provider_is_named(monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(nvidia, "has_gpu", lambda: True)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "onnxruntime-gpu" in (ONNXRuntimeCUDA().missing() or "")


def test_the_onnx_file_is_that_of_the_cpu(tmp_path):
    net, (one, other) = tiny_generator(), (tmp_path / "cpu", tmp_path / "gpu")
    for runtime, folder in ((ONNXRuntime(), one), (ONNXRuntimeTensorRT(), other)):
        folder.mkdir()
        runtime.build(net, folder, "fp32")
    assert (one / "generator.onnx").read_bytes() == (other / "generator.onnx").read_bytes()


def test_in_fp16_the_onnx_file_is_smaller_and_close(tmp_path):
    net = tiny_generator()
    artifact = ONNXRuntimeCUDA().build(net, tmp_path, "fp16")
    (x,) = net.example({"H": 20, "W": 28})
    session = ONNXRuntimeSession(artifact.path, 1, ["CPUExecutionProvider"])
    (found,) = session.run([x.numpy()])
    difference = np.abs(found - net(x).numpy()).max()
    assert found.dtype == np.float32
    assert 0 < difference < 5e-3
    if nvidia.has_gpu():
        return
    with pytest.raises(LeanganError, match="cannot load its CUDAExecutionProvider"):
        ONNXRuntimeCUDA().open(artifact, 1)


def test_the_archive_of_torch_cuda_runs_on_the_cpu(tmp_path):
    net = tiny_generator()
    artifact = TorchCUDA().build(net, tmp_path, "fp32")
    (x,) = net.example()
    (found,) = Torch().open(artifact, 1).run([x.numpy()])
    assert np.array_equal(found, net(x).numpy())
