"""Models side by side, whatever form they have."""

from __future__ import annotations

import json

import pytest
from task_nets import Smooth, image_generator, latent_net

import leangan as lg
from leangan import runtimes
from leangan.errors import LeanganError, UsageError
from leangan.search import compare
from leangan.search.candidate import Candidate
from leangan.search.compare import open_model, runtime_names
from leangan.search.lab import Lab
from leangan.tasks.base import Data


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=24)


def test_models_of_different_inputs_are_not_compared(net, tmp_path):
    with pytest.raises(UsageError, match=r"Smooth and Latent take different inputs: image"):
        lg.evaluate(net, latent_net(), tmp_path)
    wider = image_generator(Smooth(), size=24, value_range=(-1.0, 1.0))
    with pytest.raises(UsageError, match=r"\(-1\.0, 1\.0\)"):
        lg.evaluate(net, wider, tmp_path)


def test_a_generator_is_opened_as_it_is(net):
    found = open_model(net)
    assert (found.generator, found.artifact, found.name) == (net, None, "Smooth")


def test_an_archive_is_opened_by_its_path(net, tmp_path):
    path = net.save(tmp_path / "mine.pt2")
    found = open_model(str(path))
    assert found.name == str(path)
    assert found.generator.signature == net.signature
    assert found.artifact is None


def result(folder, net, *, file="model/generator.onnx", error=None):
    """A folder as compress leaves it."""
    line = {"runtime": "onnxruntime", "precision": "fp32", "file": file, "error": error}
    (folder / "report.json").write_text(json.dumps({"delivered": None, "candidates": [line]}))
    net.save(folder / "generator.pt2")
    (folder / "model").mkdir()
    (folder / "model" / "generator.onnx").write_bytes(b"")
    return folder


def test_a_result_where_nothing_was_delivered_opens_the_best(net, tmp_path):
    found = open_model(result(tmp_path, net))
    assert found.artifact.path == tmp_path / "model" / "generator.onnx"
    assert (found.artifact.runtime, found.artifact.precision) == ("onnxruntime", "fp32")
    assert found.name == tmp_path.name


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no folder that leangan compress left.*report\.json"):
        open_model(tmp_path)


def test_a_result_without_its_generator_is_refused(net, tmp_path):
    (result(tmp_path, net) / "generator.pt2").unlink()
    with pytest.raises(UsageError, match=r"no generator\.pt2"):
        open_model(tmp_path)


def test_a_result_whose_file_is_gone_is_named(net, tmp_path):
    (result(tmp_path, net) / "model" / "generator.onnx").unlink()
    with pytest.raises(LeanganError, match=r"generator\.onnx is missing"):
        open_model(tmp_path)


def test_a_result_without_a_file_is_refused(net, tmp_path):
    with pytest.raises(UsageError, match="no such deployable file"):
        open_model(result(tmp_path, net, file=None))


def test_a_deployed_file_away_from_its_folder_is_refused(tmp_path):
    path = tmp_path / "a" / "b" / "generator.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(LeanganError, match=r"keep the generator\.pt2"):
        open_model(path)


def test_a_deployed_file_that_the_report_does_not_know_is_refused(net, tmp_path):
    other = result(tmp_path, net) / "model" / "other.onnx"
    other.write_bytes(b"")
    with pytest.raises(UsageError, match="knows of no such deployable file"):
        open_model(other)


def test_runtimes_are_named_once_and_must_exist():
    assert runtime_names(["openvino", "torch", "openvino"]) == ["openvino", "torch"]
    assert "torch-inductor" not in runtime_names(None)
    with pytest.raises(UsageError, match="tensorrt"):
        runtime_names(["tensorrt"])


def test_a_simulator_is_proved_and_never_timed(net, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.get("openvino"), "timed", False)
    with Lab(net, None, Data((), ()), 1, lambda message: None) as lab:
        simulated = Candidate("simulated", "openvino", "fp32", net, worker=lab.original.worker)
        lab.candidates.append(simulated)
        lab.time(seconds=1)
    assert lab.original.speedup == 1
    assert (simulated.latency, simulated.speedup) == (None, None)
    with pytest.raises(UsageError, match="leangan export --to openvino"):
        lg.compress(net, None, tmp_path / "out", on=["openvino"])
    assert not (tmp_path / "out").exists()


def test_all_are_timed_at_the_one_size_that_some_files_hold(net, monkeypatch):
    class Entered(Exception):
        pass

    def enter(generator, *rest):
        assert [port.shape for port in generator.signature.inputs] == [(1, 3, 24, 24)]
        raise Entered

    monkeypatch.setattr(compare, "Lab", enter)
    monkeypatch.setattr(runtimes.get("openvino"), "free_sizes", False)
    with pytest.raises(Entered):
        lg.bench(net, ["torch", "openvino"])
