"""The normalization layers of the reference generators, and how to tell them by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from leangan.architectures.base import State

Norm = Literal["batch", "instance", "instance_affine", "instance_tracked"]
"""`batch`: BatchNorm2d. `instance`: InstanceNorm2d without weights. `instance_affine`: with
weights. `instance_tracked`: with running statistics, which it uses in eval, and no weights."""


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """The layer, with PyTorch's default epsilon."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(
        channels, affine=kind == "instance_affine", track_running_stats=kind == "instance_tracked"
    )


def norm_kind(state: State, layer: str) -> Norm:
    """Which normalization the keys under `layer` belong to.

    InstanceNorm with weights and running statistics computes in eval what BatchNorm does, and is
    called that. Statistics alone, without the batch counter that PyTorch has stored since 0.4.1,
    are those that an old InstanceNorm stored but never used: plain `instance`.
    """
    weights = f"{layer}.weight" in state or f"{layer}.bias" in state
    statistics = f"{layer}.running_mean" in state or f"{layer}.running_var" in state
    if weights:
        return "batch" if statistics else "instance_affine"
    if statistics and f"{layer}.num_batches_tracked" in state:
        return "instance_tracked"
    return "instance"


def without_unused_statistics(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Leave out running statistics when the network is built to use those of its input.

    That is so for files from before PyTorch 0.4.1, and for a BatchNorm generator that is to
    be run on batch statistics, as pix2pix is at test time: `norm="instance_affine"` is then the
    same computation for a batch of 1.
    """
    if arguments["norm"] not in ("instance", "instance_affine"):
        return dict(state)
    unused = (".running_mean", ".running_var", ".num_batches_tracked")
    return {name: tensor for name, tensor in state.items() if not name.endswith(unused)}


def batch_norm_caution(arguments: Mapping[str, Any]) -> str | None:
    """Image translators with BatchNorm were often meant to be run in training mode."""
    if arguments["norm"] != "batch":
        return None
    return (
        "BatchNorm uses its running statistics; where the author ran it in training mode, as "
        "pix2pix does, the argument norm=instance_affine computes that instead"
    )
