import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from leangan import runtimes
from leangan.errors import BackendMissing, UsageError
from leangan.measure.size import file_bytes, zipped_bytes
from leangan.runtimes import Artifact, available, get
from leangan.runtimes.onnxruntime_ import share_of_profile
from leangan.runtimes.worker import _Opened, answer


def test_unknown_name_lists_those_there_are():
    with pytest.raises(
        UsageError, match=r"'tensorrt'.*torch, torch-inductor, onnxruntime, openvino"
    ):
        get("tensorrt")


def test_names_find_themselves_and_all_are_available_here():
    assert [get(r.name) for r in runtimes.RUNTIMES] == list(runtimes.RUNTIMES)
    assert {"torch", "onnxruntime", "openvino"} <= {r.name for r in available()}


def test_missing_backend_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(type(get("openvino")), "missing", lambda self: "pip install openvino")
    assert "openvino" not in {r.name for r in available()}
    artifact = Artifact("openvino", "fp32", (tmp_path / "m.xml",)).to_json()
    reply = answer(_Opened(), {"open": artifact, "threads": 1})
    assert "pip install openvino" in reply["error"]


def test_inductor_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "compiler" in get("torch-inductor").missing()


def test_worker_answers_nonsense_with_a_sentence():
    assert answer(_Opened(), {"dance": 1}) == {"error": "Unknown request: dance."}
    assert "No artifact" in answer(_Opened(), {"run": "in.npz", "out": "out.npz"})["error"]


def test_deployed_models_open_without_torch(tmp_path):
    """A session costs the user the runtime's memory, not PyTorch's as well."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    script = f"""
import sys
import numpy as np
import leangan.measure.latency, leangan.runtimes.worker
from pathlib import Path
from leangan.runtimes import Artifact, get
for name in ("onnxruntime", "openvino"):
    session = get(name).open(Artifact(name, "fp32", (Path({str(path)!r}),)), 1)
    assert session.run([np.array([1, -2], np.float32)])[0].tolist() == [-1, 2]
    assert session.int8_share() is None, "nothing is multiplied here"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_share_counts_the_work_of_each_operator():
    def event(op, inputs, out, cat="Node"):
        args = {"op_name": op, "input_type_shape": inputs, "output_type_shape": [{"float": out}]}
        return {"cat": cat, "args": args}

    conv = event("Conv", [{"float": [1, 4, 8, 8]}, {"float": [6, 4, 3, 3]}], [1, 6, 8, 8])
    scale = {"float": [6]}
    int8 = event(
        "QLinearConv",
        [{"uint8": [1, 4, 8, 8]}, scale, {"uint8": []}, {"int8": [6, 4, 3, 3]}, scale],
        [1, 6, 8, 8],
    )
    up = event("ConvTranspose", [{"float": [1, 4, 8, 8]}, {"float": [4, 6, 3, 3]}], [1, 6, 16, 16])
    linear = event("MatMul", [{"float": [2, 5]}, {"int8": [5, 7]}], [2, 7])
    other = event("Add", [{"int8": [9, 9]}, {"int8": [9, 9]}], [9, 9])
    assert share_of_profile([conv, other]) == 0
    assert share_of_profile([conv, int8]) == 0.5
    assert share_of_profile([up, int8]) == 0.5  # a transposed one works per input pixel
    assert share_of_profile([linear]) == 1
    macs = 6 * 64 * 36
    assert share_of_profile([conv, linear]) == pytest.approx(70 / (70 + macs))
    assert share_of_profile([other]) is None


def test_sizes_count_all_files(tmp_path):
    first, second = tmp_path / "a.xml", tmp_path / "a.bin"
    first.write_bytes(b"x" * 50_000)
    second.write_bytes(np.random.default_rng(0).bytes(50_000))
    artifact = Artifact("openvino", "fp32", (first, second))
    assert file_bytes(artifact) == 100_000
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.write(first, "a.xml")
        archive.write(second, "a.bin")
    assert zipped_bytes(artifact) == (tmp_path / "z.zip").stat().st_size
    assert 50_000 < zipped_bytes(artifact) < 51_000


def test_backend_missing_has_its_exit_code():
    assert BackendMissing("x").exit_code == 4
