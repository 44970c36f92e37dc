"""PyTorch's layers hold their widths in attributes: set them from the weights that they hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leangan.errors import LeanganError

_Conv = nn.modules.conv._ConvNd
_Transposed = nn.modules.conv._ConvTransposeNd
_Norm = nn.modules.batchnorm._NormBase


class CannotFit(LeanganError):
    """A layer gets another number of channels than its weights take."""


def fit_weights(layer: nn.Module) -> None:
    """Set what a layer's new weights say of its widths; layers without widths are left alone."""
    if isinstance(layer, _Conv):
        rows, columns = (int(n) for n in layer.weight.shape[:2])
        # A depthwise layer has a group for each channel; other groups are narrower than before.
        if layer.groups > 1 and layer.groups == layer.in_channels:
            layer.groups = rows // max(1, layer.out_channels // layer.in_channels)
        inputs, outputs = columns * layer.groups, rows
        if isinstance(layer, _Transposed):
            inputs, outputs = outputs, inputs
        layer.in_channels, layer.out_channels = inputs, outputs
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def fit_input(path: str, layer: nn.Module, x: Tensor, *, neutral: bool) -> None:
    """Set what only a layer's input says of its widths, just before it runs.

    Args:
        path: of the layer, for errors.
        layer: a leaf module.
        x: its first input.
        neutral: it is a norm that was folded away, and shall compute the identity in eval mode.

    Raises:
        CannotFit: `x` has another number of channels than the layer's weights take.
    """
    if isinstance(layer, _Conv):
        _check(path, int(x.shape[1 - layer.weight.dim()]), layer.in_channels)
    elif isinstance(layer, nn.Linear):
        _check(path, int(x.shape[-1]), layer.in_features)
    elif isinstance(layer, _Norm):
        layer.num_features = int(x.shape[1])
        if neutral:
            _make_neutral(layer)
        held = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
        _check(path, layer.num_features, layer.num_features if held is None else held.numel())
    elif isinstance(layer, nn.GroupNorm):
        if layer.num_groups == layer.num_channels:
            layer.num_groups = int(x.shape[1])
        layer.num_channels = int(x.shape[1])
        _check(path, layer.num_channels, layer.weight.numel() if layer.affine else x.shape[1])
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(x.shape[-len(layer.normalized_shape) :])
        if layer.weight is not None:
            _check(path, layer.normalized_shape, tuple(layer.weight.shape))


def _make_neutral(layer: _Norm) -> None:
    """Statistics and weights of an identity: (x - 0) / sqrt(1 - eps + eps) * 1 + 0."""
    width = layer.num_features
    if layer.weight is not None:
        layer.weight = nn.Parameter(torch.ones(width), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(width), layer.bias.requires_grad)
    layer.running_mean = torch.zeros(width)
    layer.running_var = torch.full((width,), 1.0 - layer.eps)


def _check(path: str, found: Any, taken: Any) -> None:
    if found != taken:
        raise CannotFit(f"{path} gets {found} channels, and its pruned weight takes {taken}")
