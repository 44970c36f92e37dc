"""The layers of Keras that move, repeat, cut or pool pixels; see keras_layers for the makers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.errors import LeanganError
from leangan.sources.keras_activations import Applied
from leangan.sources.keras_layers import Cropped, Layout, Padded, Run, flat, same_pads
from leangan.sources.keras_shuffle import DepthToSpace


def zero_padding(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """ZeroPadding1D, 2D, 3D."""
    return _padding(layer.padding, "constant", layout, x)


def reflection_padding(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Our stand-in."""
    return _padding(layer.padding, "reflect", layout, x)


def operator_padding(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """keras.ops.pad with zeros or mirrored borders, on spatial axes alone."""
    width, mode = list(layer.pad_width), str(layer.mode)
    if len(width) != x.dim() or any(any(width[axis]) for axis in (0, -1)):
        return None
    return _padding(width[1:-1], mode, layout, x) if mode in ("constant", "reflect") else None


def _padding(padding: Any, mode: str, layout: Layout, x: Tensor) -> Run | None:
    if x.dim() not in layout.moved:
        return None
    # ZeroPadding1D holds one pair alone.
    pairs = [padding] if isinstance(padding[0], int) else list(padding)
    return Applied(padder(pairs, mode))


def padder(pairs: Sequence[Sequence[int]], mode: str) -> Callable[[Tensor], Tensor]:
    """A function that pads the spatial axes by (first, last) each."""
    pads = flat([(int(first), int(last)) for first, last in pairs])
    return lambda x: F.pad(x, pads, mode=mode)


def cropping(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Cropping1D, 2D, 3D."""
    if x.dim() not in layout.moved:
        return None
    cropping = layer.cropping
    pairs = [cropping] if isinstance(cropping[0], int) else list(cropping)
    return Cropped(nn.Identity(), [(int(first), int(last)) for first, last in pairs])


def up_sampling(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """UpSampling1D, 2D, 3D by nearest or linear interpolation."""
    if x.dim() not in layout.moved:
        return None
    size = (layer.size,) if isinstance(layer.size, int) else tuple(layer.size)
    scale = [float(factor) for factor in size]
    interpolation = getattr(layer, "interpolation", "nearest")
    resizing(layer, layout, x)
    if interpolation == "nearest":
        return Applied(lambda x: F.interpolate(x, scale_factor=scale, mode="nearest"))
    if interpolation != "bilinear":
        return None
    return Applied(
        lambda x: F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    )


def resizing(layer: Any, layout: Layout, x: Tensor) -> None:
    """Resizing, which Keras runs, where its backends agree.

    Raises:
        LeanganError: they do not.
    """
    if getattr(layer, "interpolation", "") == "bicubic":
        raise _unlike(layer, "interpolates with cubic polynomials")


def _unlike(layer: Any, what: str) -> LeanganError:
    kind = type(layer).__name__
    return LeanganError(
        f"Layer {layer.name!r} ({kind}) {what}, which Keras computes otherwise on PyTorch than on "
        f"TensorFlow; define a class {kind} that does what is meant in a file for --code FILE.py."
    )


def max_pooling(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """MaxPooling1D, 2D, 3D."""
    return _pooling(layer, layout, x, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), -math.inf)


def average_pooling(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """AveragePooling1D, 2D, 3D."""
    return _pooling(layer, layout, x, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), None)


def _pooling(
    layer: Any, layout: Layout, x: Tensor, makers: Sequence[Any], value: float | None
) -> Run | None:
    if x.dim() not in layout.moved:
        return None
    rank = x.dim() - 2
    kernel = _each(layer.pool_size, rank)
    strides = _each(layer.strides, rank)
    made = makers[rank - 1](kernel, strides)
    if layer.padding != "same":
        return made
    pads = same_pads(x.shape[2:], kernel, strides, [1] * rank)
    if not any(last for _, last in pads):
        return made
    if value is None:
        if all(first == last for first, last in pads):
            padding = tuple(first for first, _ in pads)
            return makers[rank - 1](kernel, strides, padding, count_include_pad=False)
        raise _unlike(layer, "averages over an uneven border")
    return Padded(flat(pads), made, value)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)


def global_average(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """GlobalAveragePooling1D, 2D, 3D."""
    return _global(layer, layout, x, torch.mean)


def global_max(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """GlobalMaxPooling1D, 2D, 3D."""
    return _global(layer, layout, x, torch.amax)


def _global(layer: Any, layout: Layout, x: Tensor, function: Callable[..., Tensor]) -> Run | None:
    if x.dim() not in layout.moved:
        return None
    axes, keep = list(range(2, x.dim())), bool(layer.keepdims)
    return Applied(lambda x: function(x, axes, keep))


def flatten(layer: Any, layout: Layout, x: Tensor) -> Run:
    """Flatten, in the order of Keras."""
    return Applied(lambda x: layout.theirs(x).flatten(1))


def reshape(layer: Any, layout: Layout, x: Tensor) -> Run:
    """Reshape, in the order of Keras."""
    target = [int(size) for size in layer.target_shape]
    return Applied(lambda x: layout.ours(layout.theirs(x).reshape(x.shape[0], *target)))


def permute(layer: Any, layout: Layout, x: Tensor) -> Run:
    """Permute."""
    order = (0, *layer.dims)
    return Applied(lambda x: layout.ours(layout.theirs(x).permute(order)))


def depth_to_space(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Our stand-in and the operation: the colour counts fastest, unlike in PyTorch."""
    if x.dim() not in layout.moved or getattr(layer, "data_format", "") == "channels_first":
        return None
    return DepthToSpace(layer.block_size)
