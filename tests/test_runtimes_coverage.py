import pytest

from leangan.runtimes import coverage, openvino_
from leangan.runtimes.onnxruntime_ import ONNXRuntime
from leangan.runtimes.openvino_ import OpenVINO
from leangan.techniques.calibrate import calibrate
from leangan.techniques.quantize_linear import quantize
from leangan.techniques.scheme import Scheme
from leangan.testing.runtimes import tiny_generator, tiny_int8_generator


@pytest.mark.parametrize(
    ("runtime", "floating"),
    [
        (OpenVINO(), ("1 x MVN", "1 x Deconvolution")),
        # It computes a convolution in 8 bits only where its output is rounded as well.
        (ONNXRuntime(), ("1 x InstanceNormalization", "1 x ConvTranspose", "2 x Conv,")),
    ],
    ids=["openvino", "onnxruntime"],
)
def test_what_stays_in_float_is_named(runtime, floating, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_, "saturates", lambda: False)  # which would be told as well
    (said,) = coverage(runtime.build(tiny_int8_generator(), tmp_path, "int8"))
    assert said.startswith("Not in 8 bits: ")
    for kind in floating:
        assert kind in said
    assert "Quantize" not in said
    assert "QLinear" not in said
    assert " x Convolution" not in said


@pytest.mark.parametrize("runtime", [OpenVINO(), ONNXRuntime()], ids=["openvino", "onnxruntime"])
def test_float_files_have_nothing_in_8_bits_to_speak_of(runtime, tmp_path):
    assert coverage(runtime.build(tiny_generator(), tmp_path, "fp32")) == []


@pytest.mark.parametrize(
    ("clips", "bits", "warned"), [(True, 8, True), (True, 7, False), (False, 8, False)]
)
def test_weights_whose_sums_this_cpu_clips_are_told(tmp_path, monkeypatch, clips, bits, warned):
    net = tiny_generator()
    inputs = [net.example(seed=seed) for seed in range(2)]
    eight = quantize(net, calibrate(net, inputs, Scheme(weight_bits=bits)))
    artifact = OpenVINO().build(eight, tmp_path, "int8")
    monkeypatch.setattr(openvino_, "saturates", lambda: clips)
    assert any("VNNI" in line for line in coverage(artifact)) is warned
