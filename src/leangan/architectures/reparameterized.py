"""Bake weight normalization and spectral normalization into the weights of a state dict."""

from __future__ import annotations

import torch
from torch import Tensor

from leangan.architectures.base import State

_WEIGHT_NORM = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
_SPECTRAL_NORM = (
    (
        ".parametrizations.weight.original",
        ".parametrizations.weight.0._u",
        ".parametrizations.weight.0._v",
    ),
    (".weight_orig", ".weight_u", ".weight_v"),
)


def plain_weights(state: State) -> dict[str, Tensor]:
    """The same weights under plain names, bit for bit what the wrapped layers compute in eval.

    Weight normalization (Salimans and Kingma 2016, norm over all axes but the first, as in every
    public vocoder) and spectral normalization (Miyato et al. 2018), in PyTorch's old and new
    naming. Everything else is passed through, in its place.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, tensor in state.items():
        owner = _owner(name, state)
        if owner is None:
            result[name] = tensor
        elif owner not in used:
            used.add(owner)
            result[f"{owner}.weight"] = _weight(owner, state)
    return result


def _owner(name: str, state: State) -> str | None:
    """The layer whose weight `name` is a factor of, None for a plain tensor."""
    for suffixes in (*_WEIGHT_NORM, *_SPECTRAL_NORM):
        for suffix in suffixes:
            owner = name.removesuffix(suffix)
            if owner != name and all(owner + s in state for s in suffixes):
                return owner
    return None


def _weight(owner: str, state: State) -> Tensor:
    for gain, direction in _WEIGHT_NORM:
        if owner + gain in state and owner + direction in state:
            return torch._weight_norm(
                state[owner + direction].float(), state[owner + gain].float(), 0
            )
    for original, left, right in _SPECTRAL_NORM:
        if owner + original in state:
            weight, u, v = (state[owner + s].float() for s in (original, left, right))
            axis = _spectral_axis(weight, u)
            matrix = weight.movedim(axis, 0).flatten(1)
            return weight / torch.dot(u, torch.mv(matrix, v))
    raise AssertionError(owner)


def _spectral_axis(weight: Tensor, u: Tensor) -> int:
    """PyTorch normalizes over the output axis: 1 for a transposed convolution, else 0."""
    return 0 if weight.shape[0] == u.numel() else 1
