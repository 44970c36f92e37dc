"""Functions of TensorFlow that were called on tensors of Keras 2, as PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from leangan.sources.keras_graph import Place, taken
from leangan.sources.keras_layers import Layout
from leangan.sources.keras_shapes import padder
from leangan.sources.keras_shuffle import DepthToSpace

NAMES = {
    "__operators__.add": "Add",
    "math.abs": "Absolute",
    "math.add": "Add",
    "math.divide": "Divide",
    "math.exp": "Exp",
    "math.multiply": "Multiply",
    "math.negative": "Negative",
    "math.sigmoid": "Sigmoid",
    "math.softplus": "Softplus",
    "math.sqrt": "Sqrt",
    "math.square": "Square",
    "math.subtract": "Subtract",
    "math.tanh": "Tanh",
    "math.truediv": "Divide",
    "nn.relu": "Relu",
}
"""What is computed for each number alone, by the class that keras.ops has for it."""


def moved(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Mapping[int, Any],
    layout: Layout,
) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """One of those that move channels or pixels, or have settings; None of all others."""
    several = len(args) == 1 and isinstance(args[0], list)
    places = tuple(args[0]) if several else args
    if not all(isinstance(p, Place) for p in places):
        return None
    dims = taken(places[0], values).dim()
    if name == "identity":
        return (lambda x: x), places
    if name == "nn.leaky_relu":
        slope = float(kwargs.get("alpha", 0.2))
        return (lambda x: F.leaky_relu(x, slope)), places
    if name == "clip_by_value":
        low, high = kwargs["clip_value_min"], kwargs["clip_value_max"]
        return (lambda x: x.clamp(low, high)), places
    if name == "concat":
        axis = layout.axis(int(kwargs["axis"]), dims)
        return (lambda *xs: torch.cat(xs, axis)), places
    if dims not in layout.moved:
        return None
    if name == "nn.depth_to_space" and kwargs.get("data_format", "NHWC") == "NHWC":
        return DepthToSpace(int(kwargs["block_size"])), places
    if name in ("pad", "compat.v1.pad"):
        pairs, mode = kwargs["paddings"], str(kwargs.get("mode", "CONSTANT")).lower()
        plain = not any(pairs[0]) and not any(pairs[-1]) and not kwargs.get("constant_values")
        if plain and mode in ("constant", "reflect"):
            return padder(pairs[1:-1], mode), places
    return None
