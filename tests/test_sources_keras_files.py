"""Files of Keras that say more or other than Keras' own layers, and files that mean harm."""

import importlib.util
import json
import random
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import leangan
from leangan.errors import LeanganError, UnsafeFile, UsageError
from leangan.sources.base import Request
from leangan.sources.keras_build import built, fill, keras_on_torch
from leangan.sources.keras_file import accepts
from leangan.sources.keras_graph import layout_of
from leangan.sources.keras_module import KerasModule
from leangan.sources.keras_read import opened

h5py = pytest.importorskip("h5py")
if importlib.util.find_spec("keras") is None:  # importing it chooses its backend
    pytest.skip("Keras is not installed", allow_module_level=True)


RNG = np.random.default_rng(0)


def layer(kind, name, source=None, call=(), **config):
    """A layer as Keras 2 writes it; `call` are the keywords of the call."""
    entry = {"class_name": kind, "name": name, "config": {"name": name, **config}}
    nodes = [] if source is None else [[[source, 0, 0, dict(call)]]]
    return {**entry, "inbound_nodes": nodes}


def picture(channels=3):
    shape = [None, None, None, channels]
    return layer("InputLayer", "x", batch_input_shape=shape, dtype="float32", ragged=False)


def model(*layers, end=None):
    places = {"input_layers": [["x", 0, 0]], "output_layers": [[end or layers[-1]["name"], 0, 0]]}
    return {"class_name": "Functional", "config": {"name": "g", "layers": layers, **places}}


def write(path, config, **weights):
    """A `.h5` as Keras 2 writes it; `weights` are arrays by name, for each layer."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            own = group.create_group(name)
            own.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
            for key, array in arrays.items():
                own.create_dataset(f"{name}/{key}:0", data=array.astype("float32"))
    return path


def runnable(path, x, *, weights=None, **request):
    """What the file computes for `x`, rebuilt but not captured."""
    with keras_on_torch() as keras, opened(path, weights) as file:
        made = built(keras, file.config, Request(**request), path)
        fill(made, file.weights, path)
        with torch.no_grad():
            return KerasModule(made, layout_of(made), [x])(x)


def normed(x, axes, epsilon, deviation):
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, correction=0)
    root = variance.sqrt() + epsilon if deviation else (variance + epsilon).sqrt()
    return (x - mean) / root


@pytest.mark.parametrize(
    ("kind", "config", "axes", "epsilon", "deviation"),
    [
        ("InstanceNormalization", {"axis": -1, "epsilon": 0.1}, (2, 3), 0.1, True),
        ("InstanceNormalization", {"axis": 3, "epsilon": 0.1}, (2, 3), 0.1, True),
        ("InstanceNormalization", {"axis": None, "epsilon": 0.1}, (1, 2, 3), 0.1, True),
        ("Addons>InstanceNormalization", {"groups": -1, "axis": -1, "epsilon": 0.1}, (2, 3), 0.1,
         False),
        ("InstanceNormalization", {"epsilon": 0.1}, (2, 3), 0.1, False),
        ("InstanceNormalization", {}, (2, 3), 1e-5, False),
    ],
)  # fmt: skip
def test_instance_norms_of_all_origins(tmp_path, kind, config, axes, epsilon, deviation):
    size = 1 if config.get("axis", -1) is None else 4
    gamma, beta = RNG.normal(1, 0.2, size), RNG.normal(0, 0.2, size)
    net = model(
        picture(4), layer(kind, "n", "x", gamma_initializer={"class_name": "Own"}, **config)
    )
    path = write(tmp_path / "g.h5", net, n={"gamma": gamma, "beta": beta})
    x = torch.randn(2, 4, 6, 5)
    scale, shift = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (gamma, beta))
    expected = normed(x, axes, epsilon, deviation) * scale + shift
    torch.testing.assert_close(runnable(path, x), expected, atol=1e-5, rtol=0)


def tensorflow_shuffle(x, block):
    n, _, height, width = x.shape
    y = x.view(n, block, block, -1, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, -1, height * block, width * block)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("PixelShuffle", {"upscale_factor": 2}),
        ("PixelShuffler", {"size": [2, 2]}),
        ("SubpixelConv2D", {"upsampling_factor": 2}),
        ("DepthToSpace", {"block_size": 2}),
        ("Custom>SubPixelUpscaling", {"scale_factor": 2}),
    ],
)
def test_depth_to_space_by_all_its_names(tmp_path, kind, config):
    path = write(tmp_path / "g.h5", model(picture(12), layer(kind, "s", "x", **config)))
    x = torch.randn(1, 12, 3, 4)
    torch.testing.assert_close(runnable(path, x), tensorflow_shuffle(x, 2))


def test_reflection_padding(tmp_path):
    for padding in (2, [2, 2], [[2, 2], [2, 2]]):
        net = model(picture(), layer("ReflectionPadding2D", "p", "x", padding=padding))
        x = torch.randn(1, 3, 5, 6)
        expected = F.pad(x, [2] * 4, mode="reflect")
        torch.testing.assert_close(runnable(write(tmp_path / "g.h5", net), x), expected)
    net = model(picture(), layer("ReflectionPadding2D", "p", "x", padding=[1, 2]))
    with pytest.raises(LeanganError, match=r"'p'.*to which side.*--code"):
        runnable(write(tmp_path / "g.h5", net), x)


def keras2():
    """A network with what only Keras 2 writes, and what it computes."""
    old = {"groups": 1, "dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}}
    up = {"filters": 4, "kernel_size": [4, 4], "strides": [2, 2], "padding": "same"}
    net = model(
        picture(),
        layer("Conv2DTranspose", "up", "x", activation="linear", **old, **up),
        layer("BatchNormalization", "bn", "up", axis=[3], epsilon=1e-3, fused=True, renorm=False),
        layer("LeakyReLU", "a", "bn", alpha=0.2),
        layer("DepthwiseConv2D", "d", "a", kernel_size=[3, 3], padding="same", groups=1,
              kernel_initializer={"class_name": "Zeros", "config": {}}),
        layer("TFOpLambda", "tf.nn.depth_to_space", "d", {"block_size": 2},
              function="nn.depth_to_space"),
        layer("TFOpLambda", "m", "tf.nn.depth_to_space", {"y": 0.5, "name": None},
              function="math.multiply"),
        layer("TFOpLambda", "s", "_CONSTANT_VALUE", {"y": ["m", 0, 0]}, function="math.subtract"),
    )  # fmt: skip
    net["config"]["layers"][-1]["inbound_nodes"] = [
        ["_CONSTANT_VALUE", -1, 1.0, {"y": ["m", 0, 0]}]
    ]
    for entry in net["config"]["layers"][-3:-1]:
        entry["inbound_nodes"] = entry["inbound_nodes"][0]
    weights = {
        "up": {"kernel": RNG.normal(0, 0.3, (4, 4, 4, 3)), "bias": RNG.normal(0, 0.3, 4)},
        "bn": {
            "gamma": RNG.normal(1, 0.1, 4),
            "beta": RNG.normal(0, 0.1, 4),
            "moving_mean": RNG.normal(0, 0.1, 4),
            "moving_variance": RNG.uniform(0.5, 2, 4),
        },
        "d": {"depthwise_kernel": RNG.normal(0, 0.3, (3, 3, 4, 1)), "bias": RNG.normal(0, 0.3, 4)},
    }

    def compute(x):
        t = {k: {n: torch.tensor(a).float() for n, a in w.items()} for k, w in weights.items()}
        y = F.conv_transpose2d(
            x, t["up"]["kernel"].permute(3, 2, 0, 1), t["up"]["bias"], stride=2, padding=1
        )
        b = t["bn"]
        y = F.batch_norm(y, b["moving_mean"], b["moving_variance"], b["gamma"], b["beta"], eps=1e-3)
        kernel = t["d"]["depthwise_kernel"].permute(2, 3, 0, 1)
        y = F.conv2d(F.leaky_relu(y, 0.2), kernel, t["d"]["bias"], padding=1, groups=4)
        return 1 - tensorflow_shuffle(y, 2) * 0.5

    return net, weights, compute


def test_a_file_of_keras_2(tmp_path):
    net, weights, compute = keras2()
    generator = leangan.load(write(tmp_path / "g.h5", net, **weights))
    x = torch.randn(2, 3, 17, 20)
    torch.testing.assert_close(generator(x), compute(x), atol=1e-5, rtol=1e-5)
    assert generator.signature.inputs[0].name == "x"


def test_models_in_models_of_keras_2(tmp_path):
    """Their calls are counted from 1 there."""
    inner = model(picture(), layer("ReLU", "r", "x"))
    inner["config"]["name"] = "inner"
    entry = {"name": "inner", **inner, "inbound_nodes": [[["x", 0, 0, {}]], [["m", 0, 0, {}]]]}
    minus = layer("Rescaling", "m", "inner", scale=-1.0, offset=0.5)
    minus["inbound_nodes"][0][0][1] = 1
    net = model(picture(), entry, minus)
    net["config"]["output_layers"] = [["inner", 2, 0]]
    x = torch.randn(1, 3, 4, 4)
    expected = (0.5 - x.relu()).relu()
    torch.testing.assert_close(runnable(write(tmp_path / "g.h5", net), x), expected)


def test_functions_of_tensorflow_that_are_not_known_are_named(tmp_path):
    net = model(picture(), layer("TFOpLambda", "odd", "x", function="signal.fft2d"))
    with pytest.raises(
        LeanganError, match=r"'odd' calls tf\.signal\.fft2d, which needs TensorFlow"
    ):
        runnable(write(tmp_path / "g.h5", net), torch.randn(1, 3, 4, 4))


CODE = """
import keras

class Mirror(keras.layers.Layer):
    def __init__(self, gain=1.0, **more):
        super().__init__(**more)
        self.gain = gain

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), name="w")

    def call(self, x):
        return keras.ops.flip(x, 2) * self.w * self.gain

def halve(x):
    return x / 2
"""


def test_layers_of_the_users_own_file(tmp_path):
    net = model(picture(), layer("Mirror", "mine", "x", gain=3.0))
    path = write(tmp_path / "g.h5", net, mine={"w": np.array([1, 2, 3])})
    x = torch.randn(1, 3, 4, 5)
    with pytest.raises(LeanganError, match=r"g\.h5: layer 'mine' is a Mirror.*--code FILE\.py"):
        runnable(path, x)
    (tmp_path / "mine.py").write_text(CODE)
    expected = x.flip(3) * torch.tensor([3.0, 6.0, 9.0]).view(3, 1, 1)
    torch.testing.assert_close(runnable(path, x, code=tmp_path / "mine.py"), expected)


def test_a_lambda_is_refused_and_a_function_of_its_name_taken(tmp_path):
    code = "a" * 40
    net = model(picture(), layer("Lambda", "halve", "x", function=[code, None, None],
                                 function_type="lambda"))  # fmt: skip
    path = write(tmp_path / "g.h5", net)
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(UnsafeFile, match=r"'halve' is a Lambda.*--code.*--trust"):
        runnable(path, x)
    (tmp_path / "mine.py").write_text(CODE)
    torch.testing.assert_close(runnable(path, x, code=tmp_path / "mine.py"), x / 2)


def test_a_lambda_of_keras_runs_with_trust(tmp_path):
    with keras_on_torch() as keras:
        i = keras.Input((None, None, 3))
        net = keras.Model(i, keras.layers.Lambda(lambda x: x * 3)(i))
        net.save(tmp_path / "g.keras")
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(UnsafeFile, match="Lambda"):
        runnable(tmp_path / "g.keras", x)
    torch.testing.assert_close(runnable(tmp_path / "g.keras", x, trust=True), x * 3)


@pytest.mark.parametrize(
    "evil",
    [
        {
            "module": "builtins",
            "class_name": "function",
            "config": "eval",
            "registered_name": "eval",
        },
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
        {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        {"module": "keras.src.layers", "class_name": "TorchModuleWrapper", "config": {}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/x"}},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}},
        {"module": "keras.src.ops.numpy", "class_name": "importlib", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "aaaa"}},
    ],
)
def test_names_of_code_in_a_file_are_never_looked_up(tmp_path, evil):
    for entry in (
        layer("Activation", "a", "x", activation=evil),
        {**layer("ReLU", "a", "x"), **evil},
        layer("TimeDistributed", "a", "x", layer=evil),
    ):
        with pytest.raises(LeanganError, match=r"g\.h5"):
            runnable(write(tmp_path / "g.h5", model(picture(), entry)), torch.randn(1, 3, 4, 4))


def test_weights_alone_and_an_architecture_alone(tmp_path):
    net, weights, compute = keras2()
    alone = write(tmp_path / "w.h5", None, **weights)
    with pytest.raises(LeanganError, match=r"holds weights and no architecture.*to_json"):
        leangan.load(alone)
    (tmp_path / "net.json").write_text(json.dumps(net))
    with pytest.raises(UsageError, match="--weights"):
        leangan.load(tmp_path / "net.json")
    x = torch.randn(1, 3, 6, 6)
    got = runnable(tmp_path / "net.json", x, weights=alone)
    torch.testing.assert_close(got, compute(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="holds weights itself"):
        leangan.load(write(tmp_path / "g.h5", net, **weights), weights=alone)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    net, weights, _ = keras2()
    del weights["d"]
    with pytest.raises(LeanganError, match="its weights do not fit its layers"):
        leangan.load(write(tmp_path / "g.h5", net, **weights))


@pytest.mark.parametrize("how", ["external", "soft", "virtual", "elsewhere", "empty chunks"])
def test_a_file_that_points_out_of_itself_is_refused(tmp_path, how):
    net, weights, _ = keras2()
    path = write(tmp_path / "g.h5", net, **weights)
    (tmp_path / "secret").write_bytes(b"1234" * 100)
    write(tmp_path / "other.h5", None, d={"bias": np.zeros(4)})
    with h5py.File(path, "a") as file:
        place = "model_weights/d/d/bias:0"
        del file[place]
        if how == "external":
            file[place] = h5py.ExternalLink("other.h5", place)
        elif how == "soft":
            file[place] = h5py.SoftLink("/model_weights/up/up/bias:0")
        elif how == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("other.h5", place, shape=(4,))
            file.create_virtual_dataset(place, layout)
        elif how == "elsewhere":
            outside = [(str(tmp_path / "secret"), 0, 16)]
            file.create_dataset(place, (4,), "f4", external=outside)
        else:
            file.create_dataset(place, (2**40,), "f4", chunks=(1024,))
    with pytest.raises(LeanganError, match=r"g\.h5 is no usable HDF5 file"):
        leangan.load(path)


def mutated(data, rng):
    if rng.random() < 0.25:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 32])):
        at = rng.randrange(len(changed) if rng.random() < 0.5 else min(len(changed), 2048))
        changed[at] = rng.randrange(256)
    return bytes(changed)


def sentence(path):
    """What is said when the file is opened, built and filled; None when nothing is."""
    try:
        with keras_on_torch() as keras, opened(path, None) as file:
            fill(built(keras, file.config, Request(), path), file.weights, path)
    except LeanganError as error:
        return str(error)
    return None


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_damaged_files_give_a_sentence(tmp_path, suffix):
    net, weights, _ = keras2()
    whole = write(tmp_path / "whole.h5", net, **weights)
    if suffix == ".keras":
        with keras_on_torch() as keras, opened(whole, None) as file:
            built(keras, file.config, Request(), whole).save(tmp_path / "whole.keras")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    rng, folder = random.Random(1), tmp_path / "inside"
    folder.mkdir()
    path, refused = folder / f"g{suffix}", 0
    for _ in range(12):
        path.write_bytes(mutated(data, rng))
        said = sentence(path)
        assert said is None or path.name in said
        refused += said is not None
        assert list(folder.iterdir()) == [path]
    assert refused


def test_damaged_architectures_give_a_sentence():
    net, _, _ = keras2()
    rng, refused = random.Random(2), 0
    values = [None, -1, 0, 10**30, "x", [], {}, [[[]]], {"class_name": "Dense"}, 1e308, True]
    with keras_on_torch() as keras:
        for _ in range(150):
            config = json.loads(json.dumps(net))
            spot = config
            while True:
                keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
                key = rng.choice(keys)
                if not isinstance(spot[key], dict | list) or not spot[key] or rng.random() < 0.1:
                    break
                spot = spot[key]
            spot[key] = rng.choice(values)
            try:
                built(keras, config, Request(), "g.h5")
            except LeanganError:
                refused += 1
    assert refused > 30


def test_a_zip_that_is_no_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "g.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(LeanganError, match=r"g\.keras is no Keras model"):
        leangan.load(tmp_path / "g.keras")
    assert accepts(tmp_path / "g.keras")


def tfjs(folder, net, weights, shards=("a.bin", "b.bin"), **manifest):
    """A layers model of TensorFlow.js in two shards, the kernels in 8 bits."""
    entries, data = [], b""
    for name, arrays in weights.items():
        for key, array in arrays.items():
            entry = {"name": f"{name}/{key}", "shape": list(array.shape), "dtype": "float32"}
            if "kernel" in key:
                low, scale = array.min(), (array.max() - array.min()) / 255
                codes = np.round((array - low) / scale).astype("uint8")
                entry["quantization"] = {"dtype": "uint8", "min": low, "scale": scale}
                arrays[key], raw = codes * scale + low, codes.tobytes()
            else:
                raw = array.astype("<f4").tobytes()
            entries.append(entry)
            data += raw
    for shard, part in zip(shards, (data[:50], data[50:]), strict=True):
        (folder / shard).write_bytes(part)
    group = {"paths": list(shards), "weights": entries, **manifest}
    topology = {"keras_version": "2.10.0", "model_config": net}
    text = {"format": "layers-model", "modelTopology": topology, "weightsManifest": [group]}
    (folder / "model.json").write_text(json.dumps(text))
    return folder / "model.json"


def test_a_model_of_tensorflow_js(tmp_path):
    net, weights, compute = keras2()
    path = tfjs(tmp_path, net, weights)
    generator = leangan.load(path)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(generator(x), compute(x), atol=1e-4, rtol=1e-4)
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(LeanganError, match="its weights are cut short at 'up/kernel'"):
        leangan.load(path)
    (tmp_path / "b.bin").unlink()
    with pytest.raises(LeanganError, match=r"needs its shard b\.bin"):
        leangan.load(path)
    path.write_text(path.read_text().replace("a.bin", "../a.bin"))
    with pytest.raises(LeanganError, match="does not lie beside it"):
        leangan.load(path)
