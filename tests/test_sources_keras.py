"""Models of Keras: equal to Keras itself, with clean graphs; hostile files get one sentence."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import leangan
from leangan.errors import LeanganError
from leangan.sources import keras_makers
from leangan.sources.keras_build import keras_on_torch
from leangan.sources.keras_graph import layout_of
from leangan.sources.keras_module import KerasModule

pytest.importorskip("h5py")
if importlib.util.find_spec("keras") is None:  # importing it chooses its backend
    pytest.skip("Keras is not installed", allow_module_level=True)


with keras_on_torch() as keras:
    from keras import layers, ops


def scrambled(model):
    """The model with weights of its own that no default hides."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.name:
            noise = rng.normal(0, 0.2, variable.shape)
            near = 1 if variable.name in ("gamma", "moving_variance") else 0
            variable.assign(near + (np.abs(noise) if near else noise))
    return model


def functional(build, *shape, dtype="float32"):
    x = keras.Input(shape, name="picture", dtype=dtype)
    return scrambled(keras.Model(x, build(x)))


def saved(model, path):
    with keras_on_torch():
        model.save(path)
    return path


def difference(generator, model, *inputs):
    """Between the generator and Keras, as a share of the range; inputs as the generator's are."""
    given = [x.movedim(1, -1) if x.dim() > 3 else x for x in inputs]
    with keras_on_torch(), torch.no_grad():
        expected = model(given if len(given) > 1 else given[0])
    expected = expected.movedim(-1, 1) if expected.dim() > 3 else expected
    got = generator(*inputs)
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / (expected.max() - expected.min()))


def operators(generator):
    nodes = generator.program.graph.nodes
    return [str(n.target).split(".")[1] for n in nodes if str(n.target).startswith("aten.")]


def dcgan():
    return scrambled(
        keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(4 * 4 * 6, use_bias=False),
                layers.BatchNormalization(),
                layers.LeakyReLU(negative_slope=0.2),
                layers.Reshape((4, 4, 6)),
                layers.Conv2DTranspose(4, 5, strides=2, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="tanh"),
            ]
        )
    )


class InstanceNormalization(layers.Layer):
    """As a user writes it."""

    def __init__(self, epsilon=1e-5, **more):
        super().__init__(**more)
        self.epsilon = epsilon

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")
        self.beta = self.add_weight(shape=(shape[-1],), name="beta")

    def call(self, x):
        mean, variance = ops.mean(x, (1, 2), keepdims=True), ops.var(x, (1, 2), keepdims=True)
        return (x - mean) * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def unet(size=None):
    def build(x):
        skips = []
        for channels in (4, 6):
            x = layers.Conv2D(channels, 4, strides=2, padding="same", use_bias=False)(x)
            x = layers.LeakyReLU(negative_slope=0.2)(InstanceNormalization()(x))
            skips.append(x)
        x = layers.Conv2DTranspose(4, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.Dropout(0.5)(InstanceNormalization()(x))
        x = layers.Concatenate()([layers.Activation("relu")(x), skips[0]])
        return layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh")(x)

    return functional(build, size, size, 3)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_dcgan_is_read_without_permutes_but_for_its_reshape(tmp_path, suffix):
    model = dcgan()
    generator = leangan.load(saved(model, tmp_path / f"g{suffix}"))
    assert difference(generator, model, torch.randn(5, 8)) < 1e-5
    names = operators(generator)
    assert names.count("permute") == 1
    assert not {"transpose", "movedim", "clone"} & set(names)
    (latent,), (picture,) = generator.signature.inputs, generator.signature.outputs
    assert latent.shape == (None, 8)
    assert (picture.kind, picture.shape) == ("image", (None, 3, 16, 16))
    assert picture.range == (-1.0, 1.0)


def test_a_unet_with_own_norms_is_read_with_free_sizes_and_no_permute(tmp_path):
    model = unet()
    generator = leangan.load(saved(model, tmp_path / "unet.h5"))
    assert not {"permute", "transpose", "view", "reshape"} & set(operators(generator))
    assert operators(generator).count("instance_norm") == 3
    (port,) = generator.signature.inputs
    assert (port.name, port.kind, port.shape) == ("picture", "image", (None, 3, None, None))
    assert port.multiple == (1, 1, 4, 4)
    assert difference(generator, model, torch.randn(2, 3, 20, 36)) < 1e-5


def test_it_is_read_in_a_fresh_process_whatever_backend_the_environment_names(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(3, 1)])
    path = saved(scrambled(model), tmp_path / "g.keras")
    code = (
        "import sys, leangan, torch\n"
        f"g = leangan.load({str(path)!r})\n"
        "import os; assert os.environ['KERAS_BACKEND'] == 'jax'\n"
        "print(g.signature.inputs[0].shape, float(g(torch.ones(1, 3, 4, 4)).abs().sum()) > 0)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(None, 3, 4, 4) True", done.stderr


def mirrored(x):
    return ops.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], mode="reflect")


def squeezed(x):
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Multiply()([x, layers.Dense(4, activation="sigmoid")(y)])


def attended(x):
    y = layers.Reshape((96, 4))(x)
    y = layers.LayerNormalization()(layers.MultiHeadAttention(2, 3)(y, y))
    return layers.Reshape((8, 12, 4))(y)


def nested(x):
    inner = functional(lambda y: layers.Conv2D(4, 3, padding="same")(y), None, None, 4)
    return inner(layers.ReLU()(inner(x)))


LAYERS = {
    "conv even": layers.Conv2D(5, 4, padding="same", activation="relu"),
    "conv stride": layers.Conv2D(5, 3, strides=2, padding="same"),
    "conv stride 3": layers.Conv2D(5, 2, strides=3, padding="same"),
    "conv groups": layers.Conv2D(6, 3, groups=2, dilation_rate=2, padding="same"),
    "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"),
    "separable": layers.SeparableConv2D(5, 3, padding="same", activation="tanh"),
    "transposed 3": layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "transposed 5": layers.Conv2DTranspose(5, 5, strides=2, padding="same"),
    "transposed 2 in 3": layers.Conv2DTranspose(5, 2, strides=3, padding="same"),
    "transposed valid": layers.Conv2DTranspose(5, 3, strides=2, padding="valid"),
    "transposed more": layers.Conv2DTranspose(5, 3, strides=2, padding="same", output_padding=1),
    "max pooling": layers.MaxPooling2D(3, strides=2, padding="same"),
    "average pooling": layers.AveragePooling2D(3, strides=1, padding="same"),
    "bilinear": layers.UpSampling2D((2, 3), interpolation="bilinear"),
    "nearest": layers.UpSampling2D(2),
    "zeros": layers.ZeroPadding2D(((1, 2), (3, 0))),
    "crop": layers.Cropping2D(((1, 2), (3, 0))),
    "group norm": layers.GroupNormalization(2),
    "instance norm": layers.GroupNormalization(-1),
    "layer norm": layers.LayerNormalization(),
    "batch norm": layers.BatchNormalization(scale=False),
    "prelu": layers.PReLU(shared_axes=[1, 2]),
    "prelu of pixels": layers.PReLU(),
    "relu": layers.ReLU(max_value=1, negative_slope=0.1, threshold=0.2),
    "softmax": layers.Softmax(),
    "flatten": lambda x: layers.Dense(7)(layers.Flatten()(x)),
    "reshape": layers.Reshape((12, 8, 2, 2)),
    "permute": layers.Permute((3, 1, 2)),
    "rescaling": layers.Rescaling(1 / 127.5, offset=-1),
    "spectral": layers.SpectralNormalization(layers.Conv2D(5, 3, padding="same")),
    "sums": lambda x: 1 - ops.tanh(x * 0.5 + x) / 2,
    "joined": lambda x: layers.Average()([x, layers.Concatenate(1)([x[:, :3], x[:, 3:]])]),
    "mirrored": mirrored,
    "squeezed": squeezed,
    "attended": attended,
    "nested": nested,
    "normalized": layers.UnitNormalization(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_computes_what_keras_computes(name):
    with keras_on_torch():
        model = functional(LAYERS[name], 8, 12, 4)
        x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
        module = KerasModule(model, layout_of(model), [x])
        with torch.no_grad():
            assert difference(module, model, x) < 1e-5


def test_shuffles_of_tensorflow_become_pytorchs_in_the_weights():
    def build(x):
        y = layers.Conv2D(12, 3, padding="same", activation="relu")(x)
        y = ops.depth_to_space(layers.LeakyReLU()(y), 2)
        return ops.depth_to_space(layers.Concatenate()([y, y, y, y]), 2)

    with keras_on_torch():
        model = functional(build, 6, 6, 4)
        x = torch.randn(1, 4, 6, 6)
        module = KerasModule(model, layout_of(model), [x])
        kinds = [type(call.run).__name__ for call in module.plan]
        assert kinds.count("PixelShuffle") == 1  # what is joined keeps its order
        with torch.no_grad():
            assert difference(module, model, x) < 1e-5


def test_a_vocoder_is_read_along_time(tmp_path):
    def build(x):
        y = layers.Conv1DTranspose(4, 8, strides=4, padding="same")(x)
        y = layers.Conv1D(4, 3, dilation_rate=3, padding="causal")(layers.LeakyReLU()(y))
        return layers.Conv1D(1, 7, padding="same", activation="tanh")(y)

    model = functional(build, None, 10)
    generator = leangan.load(saved(model, tmp_path / "v.keras"))
    assert generator.signature.inputs[0].shape == (None, 10, None)
    x = torch.randn(2, 10, 21)
    with keras_on_torch(), torch.no_grad():
        expected = model(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(generator(x), expected, atol=1e-5, rtol=0)
    assert "permute" not in operators(generator)


def test_a_label_has_the_range_of_its_table(tmp_path):
    z, label = keras.Input((6,), name="z"), keras.Input((1,), name="digit", dtype="int32")
    y = layers.Flatten()(layers.Embedding(10, 5)(label))
    y = layers.Dense(48)(layers.Concatenate()([z, y]))
    model = scrambled(keras.Model([z, label], layers.Reshape((4, 4, 3))(y)))
    generator = leangan.load(saved(model, tmp_path / "c.keras"))
    port = generator.signature.inputs[1]
    assert (port.name, port.kind, port.range) == ("digit", "label", (0.0, 9.0))
    inputs = torch.randn(3, 6), torch.tensor([[0.0], [4.0], [9.0]])
    assert difference(generator, model, *inputs) < 1e-5


def test_a_layer_that_is_rebuilt_wrongly_is_named(tmp_path, monkeypatch):
    def build(x):
        x = layers.LeakyReLU(name="right")(layers.Conv2D(16, 3, padding="same")(x))
        x = ops.depth_to_space(layers.Conv2D(16, 3, padding="same")(x), 2)
        return layers.Conv2D(3, 3, padding="same")(layers.ELU(name="wrong")(x))

    path = saved(functional(build, 16, 16, 3), tmp_path / "net.keras")
    monkeypatch.setitem(keras_makers._MAKERS, "ELU", lambda *_: torch.relu)
    with pytest.raises(LeanganError, match=r"'wrong' \(ELU\) is the first to depart, by \d"):
        leangan.load(path)
