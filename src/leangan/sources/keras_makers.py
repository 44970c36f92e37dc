"""Which maker belongs to which layer or operation of Keras."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leangan.sources import keras_activations as activations
from leangan.sources import keras_layers as layers
from leangan.sources import keras_shapes as shapes
from leangan.sources import keras_tensorflow as tensorflow
from leangan.sources.keras_graph import Place, is_builtin, taken
from leangan.sources.keras_layers import Layout

Maker = Callable[..., Callable[..., Tensor] | None]

_MAKERS: dict[str, Maker] = {
    "Activation": activations.activated,
    "Add": activations.add,
    "AlphaDropout": activations.nothing,
    "Average": activations.average,
    "BatchNormalization": layers.batch_norm,
    "Concatenate": activations.concatenate,
    "Dense": layers.dense,
    "DepthToSpace": shapes.depth_to_space,
    "Dropout": activations.nothing,
    "ELU": activations.elu,
    "Embedding": layers.embedding,
    "Flatten": shapes.flatten,
    "GaussianDropout": activations.nothing,
    "GaussianNoise": activations.nothing,
    "GroupNormalization": layers.instance_norm,
    "Identity": activations.nothing,
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyReLU": activations.leaky_relu,
    "Maximum": activations.maximum,
    "Minimum": activations.minimum,
    "Multiply": activations.multiply,
    "PReLU": activations.prelu,
    "Pad": shapes.operator_padding,
    "Permute": shapes.permute,
    "PixelShuffle": shapes.depth_to_space,
    "PixelShuffler": shapes.depth_to_space,
    "ReLU": activations.relu,
    "ReflectionPadding2D": shapes.reflection_padding,
    "Rescaling": activations.rescaling,
    "Reshape": shapes.reshape,
    "Resize": shapes.resizing,
    "Resizing": shapes.resizing,
    "Softmax": activations.softmax,
    "SubPixelUpscaling": shapes.depth_to_space,
    "SubpixelConv2D": shapes.depth_to_space,
    "Subtract": activations.subtract,
    **{f"AveragePooling{n}D": shapes.average_pooling for n in (1, 2, 3)},
    **{f"Conv{n}D": layers.convolution for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": layers.transposed for n in (1, 2, 3)},
    **{f"Cropping{n}D": shapes.cropping for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": layers.convolution for n in (1, 2)},
    **{f"GlobalAveragePooling{n}D": shapes.global_average for n in (1, 2, 3)},
    **{f"GlobalMaxPooling{n}D": shapes.global_max for n in (1, 2, 3)},
    **{f"MaxPooling{n}D": shapes.max_pooling for n in (1, 2, 3)},
    **{f"SeparableConv{n}D": layers.separable for n in (1, 2)},
    **{f"SpatialDropout{n}D": activations.nothing for n in (1, 2, 3)},
    **{f"UpSampling{n}D": shapes.up_sampling for n in (1, 2, 3)},
    **{f"ZeroPadding{n}D": shapes.zero_padding for n in (1, 2, 3)},
}

_OPERATORS: dict[str, Callable[..., Any]] = {
    "Absolute": torch.abs,
    "Add": operator.add,
    "Divide": operator.truediv,
    "Exp": torch.exp,
    "Multiply": operator.mul,
    "Negative": torch.neg,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Silu": F.silu,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Square": torch.square,
    "Subtract": operator.sub,
    "Tanh": torch.tanh,
    "TrueDivide": operator.truediv,
}
"""Operations on each number alone, by their classes in keras.ops; numbers may stand among them."""


def maker_of(operation: Any) -> Maker | None:
    """The maker of a layer, by its class."""
    if not is_builtin(operation):
        return None
    if type(operation).__name__ == "SpectralNormalization":
        # Training divides the norm out of the stored weight itself; here the layer is left.
        inner = maker_of(operation.layer)
        return inner and (lambda layer, *rest: inner(layer.layer, *rest))
    return _MAKERS.get(type(operation).__name__)


def operator_of(
    operation: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Mapping[int, Any],
    layout: Layout,
) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """An operation that is no layer, with its arguments in order; None where Keras must run it.

    What is computed for each number alone does not mind how tensors lie, as long as all have the
    same number of axes.
    """
    if not is_builtin(operation):
        return None
    name = type(operation).__name__
    given = (*args, *kwargs.values())
    if name == "TFOpLambda":
        moved = tensorflow.moved(str(operation.function), args, kwargs, values, layout)
        if moved is not None:
            return moved
        name = tensorflow.NAMES.get(str(operation.function), "")
        ends = {"x": (), "y": ()} | {key: (kwargs[key],) for key in "xy" if key in kwargs}
        given = (*ends["x"], *args, *ends["y"])
    function = _OPERATORS.get(name)
    return (function, given) if function and _alike(given, values) else None


def _alike(given: tuple[Any, ...], values: Mapping[int, Any]) -> bool:
    """Whether these are tensors with the same number of axes, and numbers."""
    tensors = [taken(g, values) for g in given if isinstance(g, Place)]
    numbers = all(isinstance(g, Place | int | float) for g in given)
    return numbers and len({t.dim() for t in tensors}) == 1
