"""Activations and sums of Keras: what is computed for each number alone lies as it lies."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.sources.keras_layers import Layout, Run, array


class Leaky(nn.Module):
    """Keras' ReLU with all its settings."""

    def __init__(self, slope: float, threshold: float, most: float | None) -> None:
        super().__init__()
        self.slope, self.threshold, self.most = slope, threshold, most

    def forward(self, x: Tensor) -> Tensor:
        """Below the threshold the slope, above `most` flat."""
        if self.threshold:
            below = self.slope * (x - self.threshold)
            y = torch.where(x >= self.threshold, x, below)
        else:
            y = F.leaky_relu(x, self.slope) if self.slope else F.relu(x)
        return y if self.most is None else y.clamp(max=self.most)


_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_silu": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
}


class Applied(nn.Module):
    """A function of Keras or of the user, called on tensors as they lie."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Any, **settings: Any) -> Any:
        """Call it."""
        return self.function(*values, **settings)


def activation(function: Any) -> nn.Module | None:
    """The module of an activation that a layer keeps; None where it is linear."""
    name = getattr(function, "__name__", type(function).__name__)
    keras_own = str(getattr(function, "__module__", "")).startswith("keras.")
    if keras_own and name == "linear":
        return None
    if keras_own and name in _PLAIN:
        return _PLAIN[name]()
    if keras_own and name == "LeakyReLU":
        return nn.LeakyReLU(float(function.negative_slope))
    return Applied(function)


def activated(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Activation."""
    if getattr(layer.activation, "__name__", "") in ("softmax", "log_softmax", "glu"):
        return None  # along the last axis
    return activation(layer.activation) or nn.Identity()


def relu(layer: Any, layout: Layout, x: Tensor) -> Run:
    """ReLU."""
    most = None if layer.max_value is None else float(layer.max_value)
    return Leaky(float(layer.negative_slope), float(layer.threshold), most)


def leaky_relu(layer: Any, layout: Layout, x: Tensor) -> Run:
    """LeakyReLU."""
    return nn.LeakyReLU(float(layer.negative_slope))


def elu(layer: Any, layout: Layout, x: Tensor) -> Run:
    """ELU."""
    return nn.ELU(float(layer.alpha))


def prelu(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """PReLU with one slope for each channel, or one for all."""
    alpha = array(layer.alpha)
    if alpha.numel() not in (1, x.shape[1]) or alpha.numel() != alpha.shape[-1]:
        return None
    if x.dim() not in layout.moved and x.dim() != 2:
        return None
    made = nn.PReLU(alpha.numel(), device="meta")
    made.load_state_dict({"weight": alpha.flatten()}, assign=True)
    return made


def softmax(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Softmax."""
    return nn.Softmax(layout.axis(layer.axis, x.dim())) if isinstance(layer.axis, int) else None


def nothing(layer: Any, layout: Layout, x: Tensor) -> Run:
    """A layer that only trains, such as Dropout."""
    return nn.Identity()


def rescaling(layer: Any, layout: Layout, x: Tensor) -> Run | None:
    """Rescaling by one factor and one offset."""
    if not all(isinstance(n, int | float) for n in (layer.scale, layer.offset)):
        return None
    scale, offset = float(layer.scale), float(layer.offset)
    return Applied(lambda x: x * scale + offset if offset else x * scale)


class Joined(nn.Module):
    """Values of one size, put together one after the other."""

    def __init__(self, function: Callable[[Any, Any], Tensor], *, mean: bool = False) -> None:
        super().__init__()
        self.function, self.mean = function, mean

    def forward(self, *values: Tensor) -> Tensor:
        """From the first to the last."""
        total = functools.reduce(self.function, values)
        return total / len(values) if self.mean else total


def _joined(function: Callable[[Any, Any], Tensor], mean: bool = False) -> Callable[..., Any]:
    def make(layer: Any, layout: Layout, *values: Tensor) -> Run | None:
        ranks = {v.dim() for v in values}
        return Joined(function, mean=mean) if len(ranks) == 1 and len(values) > 1 else None

    return make


add = _joined(operator.add)
subtract = _joined(operator.sub)
multiply = _joined(operator.mul)
average = _joined(operator.add, mean=True)
maximum = _joined(torch.maximum)
minimum = _joined(torch.minimum)


class Concatenated(nn.Module):
    """Along one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """Put side by side."""
        return torch.cat(values, self.axis)


def concatenate(layer: Any, layout: Layout, *values: Tensor) -> Run | None:
    """Concatenate."""
    return Concatenated(layout.axis(layer.axis, values[0].dim()))
