"""One generator into one runtime's form: proved, or not written."""

from __future__ import annotations

import pytest
from task_nets import Smooth, image_generator

import leangan as lg
from leangan.errors import LeanganError, UsageError
from leangan.measure.latency import Worker
from leangan.runtimes.check import agree
from leangan.search import export as export_module
from leangan.techniques.quantize_linear import quantize


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=24)


def test_what_is_written_was_proved_and_runs(net, tmp_path):
    artifact, found = lg.export(net, tmp_path / "out", runtime="openvino", threads=1)
    assert artifact.precision == "fp32"  # the most exact one
    assert artifact.path == tmp_path / "out" / "generator.xml"
    assert all(file.is_file() for file in artifact.files)
    assert len({a.size for a in found}) == 3
    assert all(a.largest_difference < 1e-3 for a in found)
    with Worker(artifact, 1) as worker:
        agree(net, artifact, worker, [{"N": 1, "H": 21, "W": 35}])


def test_nothing_is_written_when_it_computes_something_else(net, tmp_path, monkeypatch):
    def disagree(*_):
        raise LeanganError("It differs by 3 at N 1.")

    monkeypatch.setattr(export_module, "agree", disagree)
    with pytest.raises(LeanganError, match="differs by 3"):
        lg.export(net, tmp_path / "out", runtime="onnxruntime", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(net, tmp_path, monkeypatch):
    def disagree(*_):
        raise LeanganError("It differs by 3 at N 1.")

    out = tmp_path / "out"
    out.mkdir()
    (out / "generator.onnx").write_bytes(b"older")
    monkeypatch.setattr(export_module, "agree", disagree)
    with pytest.raises(LeanganError):
        lg.export(net, out, runtime="onnxruntime", threads=1)
    assert (out / "generator.onnx").read_bytes() == b"older"


def test_a_precision_that_does_not_fit_is_refused(net, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"does not run a float generator in int8.*fp32"):
        lg.export(net, out, runtime="onnxruntime", precision="int8")
    small = quantize(net, [net.example()])
    with pytest.raises(UsageError, match="does not run an 8-bit generator in fp32"):
        lg.export(small, out, runtime="onnxruntime", precision="fp32")
    with pytest.raises(UsageError, match="torch does not run an 8-bit generator in any precision"):
        lg.export(small, out, runtime="torch")
    with pytest.raises(UsageError, match="tensorrt"):
        lg.export(net, out, runtime="tensorrt")
    assert not out.exists()
