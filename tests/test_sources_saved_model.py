"""SavedModels: what Keras 2 wrote is read as an `.h5` is; what is damaged gives a sentence."""

import importlib.util
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import saved_models
import torch
from test_sources_keras_files import keras2, layer, model, mutated, picture

import leangan
from leangan.errors import BackendMissing, LeanganError, UnsafeFile, UsageError
from leangan.search.compare import open_model
from leangan.sources import saved_model_graph, tensor_bundle
from leangan.sources.base import Request
from leangan.sources.crc32c import crc32c
from leangan.sources.keras_build import built, fill, keras_on_torch
from leangan.sources.saved_model import accepts
from leangan.sources.saved_model_keras import description, read_keras

pytest.importorskip("h5py")
if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed", allow_module_level=True)


def opened(folder, **request):
    """The model of Keras, its weights loaded."""
    with keras_on_torch() as keras, tempfile.TemporaryDirectory() as place:
        file = read_keras(folder, description(folder), Path(place) / "weights.h5")
        made = built(keras, file.config, Request(**request), folder)
        fill(made, file.weights, folder)
        return made


def computed(folder, x, **request):
    with keras_on_torch(), torch.no_grad():
        return opened(folder, **request)(x.movedim(1, -1)).movedim(-1, 1)


def tupled(value):
    """Lists of numbers as Keras wrote its tuples there."""
    if isinstance(value, dict):
        return {key: tupled(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(n, int | None) for n in value):
        return {"class_name": "__tuple__", "items": value}
    return [tupled(item) for item in value] if isinstance(value, list) else value


def test_a_saved_model_is_read_by_its_folder_and_by_its_graph(tmp_path):
    net, weights, compute = keras2()
    folder = saved_models.write(tmp_path / "painter", tupled(net), weights)
    generator = leangan.load(folder)
    x = torch.randn(2, 3, 17, 20)
    torch.testing.assert_close(generator(x), compute(x), atol=1e-5, rtol=1e-5)
    assert generator.name == "painter"
    assert generator.signature.inputs[0].shape == (None, 3, None, None)
    assert accepts(folder / "saved_model.pb")
    with pytest.raises(UsageError, match="holds weights itself"):
        leangan.load(folder / "saved_model.pb", weights=folder / "keras_metadata.pb")


@pytest.mark.parametrize("how", [{"old": True}, {"traces": False}])
def test_of_an_old_tensorflow_and_without_traces(tmp_path, how):
    net, weights, compute = keras2()
    names = ["moving_mean", "gamma", "moving_variance", "beta"]  # which of them is trained counts
    weights["bn"] = (
        {name: weights["bn"][name] for name in names} if "traces" in how else weights["bn"]
    )
    folder = saved_models.write(tmp_path / "g", net, weights, **how)
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(computed(folder, x), compute(x), atol=1e-5, rtol=1e-5)


def test_without_traces_layers_in_layers_have_no_order(tmp_path):
    net, weights, _ = keras2()
    weights["bn"] = {"inner": weights["bn"]}
    folder = saved_models.write(tmp_path / "g", net, weights, traces=False)
    with pytest.raises(LeanganError, match=r"save_traces=False.*layer-2, which holds layers"):
        opened(folder)


CODE = """
import keras

class Own(keras.Model):
    def __init__(self, **more):
        super().__init__(**more)
        self.conv = keras.layers.Conv2D(3, 1)
        self.gain = self.add_weight(shape=(3,), name="gain")

    def call(self, x):
        return self.conv(x) * self.gain

def double(x):
    return x * 2
"""


def test_a_model_of_the_users_own_class_with_weights_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text(CODE)
    kernel = np.arange(9).reshape(1, 1, 3, 3)
    told = {"build_input_shape": {"class_name": "TensorShape", "items": [1, 4, 5, 3]}}
    folder = saved_models.write(
        tmp_path / "g", {"class_name": "Own", "config": {}},
        {"conv": {"kernel": kernel, "bias": np.ones(3)}}, own={"gain": np.array([1, 2, 3])}, **told,
    )  # fmt: skip
    with pytest.raises(LeanganError, match=r"is a Own, which is no layer of Keras.*--code"):
        opened(folder)
    x = torch.randn(2, 3, 4, 5)
    mixed = torch.einsum("nihw,io->nohw", x, torch.tensor(kernel[0, 0]).float()) + 1
    expected = mixed * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    torch.testing.assert_close(computed(folder, x, code=tmp_path / "own.py"), expected)


def test_a_lambda_is_refused_and_a_function_of_its_name_taken(tmp_path):
    code = {"class_name": "__tuple__", "items": ["a" * 40, None, None]}
    net = model(picture(), layer("Lambda", "double", "x", function=code, function_type="lambda"))
    folder = saved_models.write(tmp_path / "g", net, {})
    with pytest.raises(UnsafeFile, match=r"'double' is a Lambda.*--code.*--trust"):
        leangan.load(folder)
    (tmp_path / "own.py").write_text(CODE)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(computed(folder, x, code=tmp_path / "own.py"), x * 2)


def graph_alone(folder):
    return saved_models.write(folder, None, {"conv": {"kernel": np.zeros(3)}})


def test_a_graph_alone_needs_trust_and_tensorflow(tmp_path, monkeypatch):
    folder = graph_alone(tmp_path / "g")
    for opened_by in (leangan.load, open_model):
        with pytest.raises(UnsafeFile, match=r"no layers of Keras 2.*write files.*--trust"):
            opened_by(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=r"pip install 'leangan\[tensorflow\]'"):
        leangan.load(folder, trust=True)


def test_a_graph_whose_function_is_not_told_is_refused(tmp_path):
    folder = graph_alone(tmp_path / "g")
    graph = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(graph.replace(b"serving_default", b"__init_function"))
    with pytest.raises(LeanganError, match=r"no signature 'serving_default': save it again"):
        saved_model_graph._signature(folder)


CONVERT = """
import sys, pathlib
if {fails}:
    sys.exit("ValueError: no such operator")
pathlib.Path(sys.argv[sys.argv.index("--output") + 1]).write_text(" ".join(sys.argv[1:7]))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_alone_is_converted_in_a_process_of_its_own(tmp_path, monkeypatch, fails):
    folder = graph_alone(tmp_path / "g")
    package = tmp_path / "packages" / "tf2onnx"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "convert.py").write_text(CONVERT.format(fails=fails))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(saved_model_graph.onnx_file, "load", lambda file, _: file.read_text())
    if fails:
        with pytest.raises(LeanganError, match=r"by tf2onnx: ValueError: no such operator"):
            saved_model_graph.load_graph(folder, Request(trust=True))
    else:
        said = saved_model_graph.load_graph(folder, Request(trust=True))
        assert said == f"--saved-model {folder} --signature_def serving_default --opset 17"


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(memoryview(b"a")) == 0xC1D04330


def test_values_that_changed_are_noticed(tmp_path):
    net, weights, _ = keras2()
    folder = saved_models.write(tmp_path / "g", net, weights)
    data = folder / "variables" / "variables.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[5] ^= 1
    data.write_bytes(whole)
    with pytest.raises(LeanganError, match=r"g is damaged: the checksum of 'up/bias' does not fit"):
        opened(folder)
    data.write_bytes(whole[:50])
    with pytest.raises(LeanganError, match="is cut short at '_CHECKPOINTABLE_OBJECT_GRAPH'"):
        opened(folder)
    data.unlink()
    with pytest.raises(LeanganError, match=r"variables\.data-00000-of-00001.* is missing"):
        opened(folder)


def test_an_index_that_is_read_without_end_is_refused(tmp_path):
    many = saved_models.block([(b"%06d" % n, b"") for n in range(2000)])
    place = saved_models.number(0) + saved_models.number(len(many) - 5)
    places = saved_models.block([(b"%06d" % n, place) for n in range(2000)])
    footer = bytes(2) + saved_models.number(len(many)) + saved_models.number(len(places) - 5)
    footer = footer.ljust(40, b"\0") + saved_models.table({})[-8:]
    (tmp_path / "v.index").write_bytes(many + places + footer)
    with pytest.raises(tensor_bundle.Damaged, match="the blocks of its index overlap"):
        tensor_bundle.read_bundle(tmp_path / "v")


def sentence(folder, weights):
    """What is said when the folder is read; None when nothing is."""
    try:
        text = description(folder)
        if text is not None:
            read_keras(folder, text, weights)
    except LeanganError as error:
        return str(error)
    return None


@pytest.mark.parametrize("summed", [True, False])
def test_damaged_folders_give_a_sentence(tmp_path, monkeypatch, summed):
    net, weights, _ = keras2()
    folder = saved_models.write(tmp_path / "g", net, weights)
    if not summed:  # as if whoever changed it had summed it anew
        monkeypatch.setattr(tensor_bundle, "_check", lambda *_: None)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    rng, refused = random.Random(3), 0
    for _ in range(120):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, rng))
        said = sentence(folder, tmp_path / "weights.h5")
        assert said is None or str(folder) in said
        refused += said is not None
        path.write_bytes(whole)
    assert refused > 40
