"""Layers that many generators use and Keras does not have, under the names that files call them.

Importing this imports Keras: only `keras_build` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from leangan.errors import LeanganError


class InstanceNormalization(keras.layers.Layer):
    """The forms of keras-contrib, TensorFlow Addons and the pix2pix tutorial, told apart.

    Addons' files say `groups`, keras-contrib's say `axis` and add epsilon to the deviation and not
    to the variance; its `axis=None` norms all channels as one. The tutorial's say neither, and its
    epsilon is 1e-5.
    """

    def __init__(
        self,
        axis: int | None = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        deviation: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(**_base(more))
        self.axis, self.epsilon, self.deviation = axis, epsilon, deviation
        self.center, self.scale = center, scale

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InstanceNormalization:
        """Make it from a configuration of any of the three."""
        return cls(**{"deviation": "axis" in config and "groups" not in config, **config})

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make scale and offset, one for each channel; one for all where there is no axis."""
        if self.axis is not None and self.axis % len(input_shape) != len(input_shape) - 1:
            raise LeanganError(f"Layer {self.name!r} norms along axis {self.axis}, not the last.")
        size = (1,) if self.axis is None else (input_shape[-1],)
        self.gamma = self.add_weight(shape=size, name="gamma") if self.scale else None
        self.beta = self.add_weight(shape=size, name="beta") if self.center else None

    def call(self, x: Any) -> Any:
        """Norm each picture on its own."""
        axes = list(range(1, x.ndim if self.axis is None else x.ndim - 1))
        mean = ops.mean(x, axes, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axes, keepdims=True)
        if self.deviation:
            y = (x - mean) / (ops.sqrt(variance) + self.epsilon)
        else:
            y = (x - mean) * ops.rsqrt(variance + self.epsilon)
        y = y if self.gamma is None else y * self.gamma
        return y if self.beta is None else y + self.beta


class ReflectionPadding2D(keras.layers.Layer):
    """Mirrors the borders."""

    def __init__(self, padding: Any = None, **more: Any) -> None:
        super().__init__(**_base(more))
        pairs = _pairs(padding)
        if pairs is None:
            raise LeanganError(
                f"Layer {self.name!r}: the file does not tell how far {padding!r} pads to which "
                "side; give the Python file that defines ReflectionPadding2D with --code FILE.py."
            )
        self.padding = pairs

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Each side grows by its padding."""
        sizes = zip(shape[1:3], self.padding, strict=True)
        height, width = (None if size is None else size + sum(pair) for size, pair in sizes)
        return (shape[0], height, width, shape[3])

    def call(self, x: Any) -> Any:
        """Pad."""
        return ops.pad(x, ((0, 0), *self.padding, (0, 0)), mode="reflect")


class DepthToSpace(keras.layers.Layer):
    """Channels become pixels, in TensorFlow's order: the colour counts fastest."""

    _WORDS = ("block_size", "upscale_factor", "upsampling_factor", "scale_factor", "factor")

    def __init__(self, **more: Any) -> None:
        super().__init__(**_base(more))
        given = [
            more[word] for word in (*self._WORDS, "scale", "size", "ratio", "r") if word in more
        ]
        block = given[0] if given else None
        if isinstance(block, list | tuple) and len(set(block)) == 1:
            block = block[0]
        if not isinstance(block, int) or block < 1 or more.get("data_format") == "channels_first":
            raise LeanganError(
                f"Layer {self.name!r}: the file does not tell its factor; give the Python file "
                f"that defines {type(self).__name__} with --code FILE.py."
            )
        self.block_size = block

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Larger by the factor, with fewer channels."""
        height, width = (None if s is None else s * self.block_size for s in shape[1:3])
        return (shape[0], height, width, (shape[3] or 0) // self.block_size**2)

    def call(self, x: Any) -> Any:
        """Shuffle."""
        return ops.depth_to_space(x, self.block_size, data_format="channels_last")


class PixelShuffle(DepthToSpace):
    """Another name."""


class PixelShuffler(DepthToSpace):
    """Another name."""


class SubpixelConv2D(DepthToSpace):
    """Another name."""


class SubPixelUpscaling(DepthToSpace):
    """Another name."""


class TFOpLambda(keras.layers.Layer):
    """A function of TensorFlow that was called on a tensor of Keras 2."""

    def __init__(self, function: str, **more: Any) -> None:
        super().__init__(**_base(more))
        self.function = function
        if function not in _FUNCTIONS:
            raise LeanganError(
                f"Layer {self.name!r} calls tf.{function}, which needs TensorFlow; where the model "
                "was made, put a layer of Keras in its place and save it again."
            )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call what computes the same."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("name", "training")}
        args = (kwargs.pop("x"), *args) if "x" in kwargs else args  # 1 - y
        return _FUNCTIONS[self.function](*args, **kwargs)


class SlicingOpLambda(TFOpLambda):
    """The same for square brackets."""


def _depth_to_space(x: Any, block_size: int, data_format: str = "NHWC") -> Any:
    order = {"NHWC": "channels_last", "NCHW": "channels_first"}[data_format]
    return ops.depth_to_space(x, block_size, data_format=order)


def _pad(x: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    values = constant_values if mode == "CONSTANT" else None
    return ops.pad(x, paddings, mode.lower(), values)


def _two(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A function of two values, by the names that TensorFlow gives them."""
    return lambda x, y: function(x, y)


def _cut(x: Any, slice_spec: Any) -> Any:
    parts = (
        slice(p["start"], p["stop"], p["step"]) if isinstance(p, dict) else p for p in slice_spec
    )
    return x[tuple(parts)]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "nn.leaky_relu": lambda x, alpha=0.2: ops.leaky_relu(x, alpha),
    "nn.relu": ops.relu,
    "nn.relu6": ops.relu6,
    "nn.elu": ops.elu,
    "nn.selu": ops.selu,
    "nn.gelu": lambda x, approximate=False: ops.gelu(x, approximate),
    "nn.silu": lambda x, beta=1.0: x * ops.sigmoid(beta * x),
    "nn.softmax": lambda x, axis=-1: ops.softmax(x, axis),
    "nn.depth_to_space": _depth_to_space,
    "math.tanh": ops.tanh,
    "math.sigmoid": ops.sigmoid,
    "math.softplus": ops.softplus,
    "math.add": _two(ops.add),
    "__operators__.add": _two(ops.add),
    "math.subtract": _two(ops.subtract),
    "math.multiply": _two(ops.multiply),
    "math.truediv": _two(ops.divide),
    "math.divide": _two(ops.divide),
    "math.maximum": _two(ops.maximum),
    "math.minimum": _two(ops.minimum),
    "math.negative": ops.negative,
    "math.abs": ops.abs,
    "math.square": ops.square,
    "math.sqrt": ops.sqrt,
    "math.rsqrt": ops.rsqrt,
    "math.exp": ops.exp,
    "math.reduce_mean": lambda x, axis=None, keepdims=False: ops.mean(x, axis, keepdims),
    "math.reduce_sum": lambda x, axis=None, keepdims=False: ops.sum(x, axis, keepdims),
    "math.reduce_max": lambda x, axis=None, keepdims=False: ops.max(x, axis, keepdims),
    "clip_by_value": lambda x, clip_value_min, clip_value_max: ops.clip(
        x, clip_value_min, clip_value_max
    ),
    "cast": ops.cast,
    "__operators__.getitem": _cut,
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "identity": lambda x: x,
    "reshape": ops.reshape,
    "compat.v1.transpose": lambda x, perm: ops.transpose(x, perm),
    "compat.v1.pad": _pad,
    "pad": _pad,
}
"""The functions of TensorFlow that generators call on tensors, by the names that files give."""


def _base(more: dict[str, Any]) -> dict[str, Any]:
    """What the base class of all layers takes of a configuration."""
    return {key: more[key] for key in ("name", "trainable", "dtype") if key in more}


def _pairs(padding: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(top, bottom), (left, right); None where it cannot be told which is which."""
    if isinstance(padding, int):
        return ((padding, padding),) * 2
    if not isinstance(padding, list | tuple):
        return None
    sides = list(padding[1:3]) if len(padding) == 4 else list(padding)
    if len(sides) != 2:
        return None
    if all(isinstance(side, int) for side in sides):
        # Some authors mean (height, width), others (width, height).
        return ((sides[0], sides[0]),) * 2 if sides[0] == sides[1] else None
    if all(isinstance(s, list | tuple) and [type(n) for n in s] == [int, int] for s in sides):
        return (sides[0][0], sides[0][1]), (sides[1][0], sides[1][1])
    return None


OBJECTS: dict[str, Any] = {
    made.__name__: made
    for made in (
        InstanceNormalization, ReflectionPadding2D, DepthToSpace, PixelShuffle, PixelShuffler,
        SubpixelConv2D, SubPixelUpscaling, TFOpLambda, SlicingOpLambda,
    )
}  # fmt: skip
"""Stand-ins by the name of the class that they stand for."""
