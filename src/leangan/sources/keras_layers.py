"""The layers of Keras as PyTorch modules whose tensors have their channels first.

Each maker takes a layer, the layout and an example of each input, and returns what computes the
same; None where it does not know the layer's settings. Nothing here imports Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = Callable[..., Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Layout:
    """Which tensors of the Keras model lie otherwise here: their last axis becomes the second."""

    moved: frozenset[int]
    """Their numbers of axes."""

    def ours(self, x: Tensor) -> Tensor:
        """A tensor of Keras as it lies here."""
        return x.movedim(-1, 1) if x.dim() in self.moved else x

    def theirs(self, x: Tensor) -> Tensor:
        """A tensor from here as Keras has it."""
        return x.movedim(1, -1) if x.dim() in self.moved else x

    def ours_in(self, value: Any) -> Any:
        """The same for all tensors in lists and dictionaries."""
        return _map(value, self.ours)

    def theirs_in(self, value: Any) -> Any:
        """The same for all tensors in lists and dictionaries."""
        return _map(value, self.theirs)

    def axis(self, axis: int, dims: int) -> int:
        """Where an axis of Keras' tensor is here."""
        axis %= dims
        if dims not in self.moved or axis == 0:
            return axis
        return 1 if axis == dims - 1 else axis + 1


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_map(item, function) for item in value])
    if isinstance(value, dict):
        return {key: _map(item, function) for key, item in value.items()}
    return value


class Padded(nn.Module):
    """Zeros, or another value, around what a layer reads."""

    def __init__(self, pads: Sequence[int], layer: Run, value: float = 0.0) -> None:
        super().__init__()
        self.pads, self.layer, self.value = list(pads), layer, value

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then run the layer."""
        return self.layer(F.pad(x, self.pads, value=self.value))


class Cropped(nn.Module):
    """What is left of a layer's output; `crops` are (first, last) of each spatial axis."""

    def __init__(self, layer: Run, crops: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layer, self.crops = layer, list(crops)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer, then cut."""
        # An end counted from behind leaves no arithmetic with sizes in the graph.
        parts = (slice(first, -last if last else None) for first, last in self.crops)
        return self.layer(x)[(..., *parts)]


def array(variable: Any) -> Tensor:
    """The numbers of a variable of Keras, float32, a copy."""
    return torch.from_numpy(np.array(variable, dtype=np.float32))


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """TensorFlow's padding "same": (first, last) of each axis, of which the last is larger.

    With a stride it depends on the size; what is right for one size is right for all that leave
    the same rest, and other sizes are no multiples of what `probe` finds.
    """
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As F.pad wants them: the last axis first."""
    return [n for pair in reversed(pads) for n in pair]


def with_activation(layer: Any, run: nn.Module) -> nn.Module:
    """The layer and the activation that Keras keeps inside of it."""
    from leangan.sources.keras_activations import activation

    function = activation(layer.activation)
    return run if function is None else nn.Sequential(run, function)


def _rank(layer: Any) -> int:
    """The number of spatial axes that a layer's name tells."""
    return next(int(c) for c in type(layer).__name__ if c.isdigit())


def _filled(module: Module, **state: Tensor | None) -> Module:
    module.load_state_dict({k: v for k, v in state.items() if v is not None}, assign=True)
    return module


def convolution(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Conv1D, 2D, 3D and their depthwise forms."""
    rank = _rank(layer)
    if x.dim() not in layout.moved:
        return None
    weight = array(layer.kernel)
    groups = getattr(layer, "groups", 1) or 1
    if "Depthwise" in type(layer).__name__:
        # [*kernel, in, multiplier] -> [in * multiplier, 1, *kernel]
        groups = weight.shape[-2]
        weight = weight.flatten(-2).unsqueeze(-2)
    bias = array(layer.bias) if layer.use_bias else None
    return with_activation(layer, _convolve(layer, weight, bias, groups, rank, x))


def _convolve(
    layer: Any, weight: Tensor, bias: Tensor | None, groups: int, rank: int, x: Tensor
) -> nn.Module:
    """The convolution with a weight in Keras' order, [*kernel, in, out]."""
    kernel, strides = tuple(weight.shape[:rank]), tuple(layer.strides)
    dilation = tuple(layer.dilation_rate)
    if layer.padding == "same":
        pads = same_pads(x.shape[2:], kernel, strides, dilation)
    elif layer.padding == "causal":
        pads = [((kernel[0] - 1) * dilation[0], 0)]
    else:
        pads = [(0, 0)] * rank
    even = all(first == last for first, last in pads)
    maker: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    made: nn.Module = maker(
        weight.shape[-2] * groups,
        weight.shape[-1],
        kernel,
        stride=strides,
        padding=tuple(first for first, _ in pads) if even else 0,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    ordered = weight.permute(rank + 1, rank, *range(rank)).contiguous()
    filled = _filled(made, weight=ordered, bias=bias)
    return filled if even else Padded(flat(pads), filled)


def separable(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """SeparableConv: a depthwise convolution, then one of a single pixel."""
    rank = _rank(layer)
    if x.dim() not in layout.moved:
        return None
    depth = array(layer.depthwise_kernel)
    channels = depth.shape[-2]
    first = _convolve(layer, depth.flatten(-2).unsqueeze(-2), None, channels, rank, x)
    point = array(layer.pointwise_kernel)
    bias = array(layer.bias) if layer.use_bias else None
    second = _pointwise(point.reshape(point.shape[-2:]), bias, rank)
    return with_activation(layer, nn.Sequential(first, second))


def _pointwise(weight: Tensor, bias: Tensor | None, rank: int) -> nn.Module:
    """A convolution of kernel 1; the weight is [in, out]."""
    maker: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    made: nn.Module = maker(*weight.shape, 1, bias=bias is not None, device="meta")
    return _filled(made, weight=weight.T.reshape(*weight.T.shape, *[1] * rank), bias=bias)


def transposed(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Conv1DTranspose, 2D, 3D: cut as TensorFlow cuts, more at the end than at the beginning."""
    rank = _rank(layer)
    output_padding = getattr(layer, "output_padding", None)
    if x.dim() not in layout.moved or output_padding is not None:
        return None
    weight = array(layer.kernel)  # [*kernel, out, in]
    kernel, strides = tuple(weight.shape[:rank]), tuple(layer.strides)
    dilation = tuple(layer.dilation_rate)
    padding, crops, extra = [], [], []
    for k, s, d in zip(kernel, strides, dilation, strict=True):
        reach = (k - 1) * d + 1
        total = max(reach - s, 0) if layer.padding == "same" else 0
        padding.append(total // 2)  # PyTorch cuts as much from both ends
        crops.append((0, total - 2 * (total // 2)))
        extra.append(max(s - reach, 0))
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilation, strict=True)):
        return None
    maker: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    made: nn.Module = maker(
        weight.shape[-1],
        weight.shape[-2],
        kernel,
        stride=strides,
        padding=tuple(padding),
        output_padding=tuple(extra),
        dilation=dilation,
        bias=layer.use_bias,
        device="meta",
    )
    ordered = weight.permute(rank + 1, rank, *range(rank)).contiguous()
    bias = array(layer.bias) if layer.use_bias else None
    run = _filled(made, weight=ordered, bias=bias)
    return with_activation(layer, Cropped(run, crops) if any(c[1] for c in crops) else run)


def dense(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Dense, along the channels."""
    weight = array(layer.kernel)
    bias = array(layer.bias) if layer.use_bias else None
    if x.dim() in layout.moved:
        return with_activation(layer, _pointwise(weight, bias, x.dim() - 2))
    made = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None, device="meta")
    return with_activation(layer, _filled(made, weight=weight.T.contiguous(), bias=bias))


def batch_norm(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """BatchNormalization over the channels."""
    if layout.axis(layer.axis, x.dim()) != 1:
        return None
    mean, variance = array(layer.moving_mean), array(layer.moving_variance)
    maker = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()]
    made = maker(len(mean), eps=layer.epsilon, device="meta")
    weight = array(layer.gamma) if layer.scale else torch.ones_like(mean)
    bias = array(layer.beta) if layer.center else torch.zeros_like(mean)
    return _filled(
        made,
        weight=weight,
        bias=bias,
        running_mean=mean,
        running_var=variance,
        num_batches_tracked=torch.tensor(0),
    )


def instance_norm(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Our stand-in's form with epsilon in the variance, and GroupNormalization of all channels."""
    if x.dim() not in layout.moved:
        return None
    if layer.axis is None or getattr(layer, "deviation", False):
        return Standardized(layer, x.dim())
    channels = x.shape[1]
    groups = getattr(layer, "groups", channels)
    if layout.axis(layer.axis, x.dim()) != 1 or groups not in (-1, channels):
        return group_norm(layer, layout, x)
    maker = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[x.dim()]
    affine = layer.gamma is not None or layer.beta is not None
    made = maker(channels, eps=layer.epsilon, affine=affine, device="meta")
    return _filled(made, **_affine(layer, channels)) if affine else made


class Standardized(nn.Module):
    """keras-contrib's InstanceNormalization, which is no norm that PyTorch has."""

    def __init__(self, layer: Any, dims: int) -> None:
        super().__init__()
        self.axes = list(range(1 if layer.axis is None else 2, dims))
        self.epsilon, self.deviation = float(layer.epsilon), bool(layer.deviation)
        affine = _affine(layer, 1)
        shape = (-1, *[1] * (dims - 2))
        self.weight = nn.Parameter(affine["weight"].reshape(shape))
        self.bias = nn.Parameter(affine["bias"].reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the deviation and epsilon, or by the root of the variance and epsilon."""
        y = x - x.mean(self.axes, keepdim=True)
        variance = y.square().mean(self.axes, keepdim=True)
        if self.deviation:
            y = y / (variance.sqrt() + self.epsilon)
        else:
            y = y * (variance + self.epsilon).rsqrt()
        return y * self.weight + self.bias


def group_norm(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """GroupNormalization."""
    if x.dim() not in layout.moved or layout.axis(layer.axis, x.dim()) != 1:
        return None
    made = nn.GroupNorm(layer.groups, x.shape[1], eps=layer.epsilon, device="meta")
    return _filled(made, **_affine(layer, x.shape[1]))


def _affine(layer: Any, channels: int) -> dict[str, Tensor]:
    weight = torch.ones(channels) if layer.gamma is None else array(layer.gamma)
    return {
        "weight": weight,
        "bias": torch.zeros(channels) if layer.beta is None else array(layer.beta),
    }


class NormedLast(nn.Module):
    """A norm over the channels, which PyTorch has for the last axis alone."""

    def __init__(self, norm: nn.LayerNorm, layout: Layout) -> None:
        super().__init__()
        self.norm, self.layout = norm, layout

    def forward(self, x: Tensor) -> Tensor:
        """Turn, norm, turn back."""
        return self.layout.ours(self.norm(self.layout.theirs(x)))


def layer_norm(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """LayerNormalization over the channels."""
    axis = list(layer.axis) if isinstance(layer.axis, list | tuple) else [layer.axis]
    channels = x.shape[layout.axis(-1, x.dim())]
    last = [a % x.dim() for a in axis] == [x.dim() - 1]
    if not last or getattr(layer, "rms_scaling", False):
        return None
    made = nn.LayerNorm(channels, eps=layer.epsilon, device="meta")
    return NormedLast(_filled(made, **_affine(layer, channels)), layout)


class Looked(nn.Module):
    """A table of vectors, for whole numbers that come as floats."""

    def __init__(self, table: Tensor, layout: Layout) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table, freeze=False)
        self.layout = layout

    def forward(self, ids: Tensor) -> Tensor:
        """Look up."""
        return self.layout.ours(self.table(self.layout.theirs(ids).long()))


def embedding(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Embedding."""
    return Looked(array(layer.embeddings), layout)
