"""RRDBNet, the generator of ESRGAN and Real-ESRGAN.

Wang et al.: ESRGAN, ECCV workshops 2018; Wang, Xie, Dong, Shan: Real-ESRGAN, ICCV workshops 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.architectures.base import (
    Architecture,
    Ports,
    State,
    convolutions,
    numbered,
    super_resolution_ports,
)

_OLD = (
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB(\d)\."), r"body.\1.rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_OLDEST_BLOCK = re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)(?:\.0)?\.")


class DenseBlock(nn.Module):
    """Five convolutions, each fed with all before it; a fifth of the result is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for n in range(5):
            out = growth if n < 4 else width
            self.add_module(f"conv{n + 1}", nn.Conv2d(width + n * growth, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        maps = [x]
        for n in range(1, 5):
            y = self.get_submodule(f"conv{n}")(torch.cat(maps, 1))
            maps.append(F.leaky_relu(y, 0.2))
        return x + 0.2 * self.get_submodule("conv5")(torch.cat(maps, 1))


class ResidualDenseBlock(nn.Module):
    """Three dense blocks beside a skip."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RrdbNet(nn.Module):
    """Image [N, in, H, W] to [N, out, scale H, scale W], both in [0, 1].

    The scale is 2**doublings / unshuffle.

    Args:
        in_channels, out_channels: of the images.
        width: channels inside ("num_feat").
        blocks: 23 in the papers, 6 in the anime version.
        growth: channels that each dense convolution adds ("num_grow_ch").
        doublings: nearest resizings, each with a convolution.
        unshuffle: Real-ESRGAN's x2 and x1 networks are its x4 network on a picture folded by 2
            and 4; H and W must then be multiples of that.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 23,
        growth: int = 32,
        doublings: int = 2,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.unshuffle, self.doublings = unshuffle, doublings
        self.conv_first = nn.Conv2d(in_channels * unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualDenseBlock(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for n in range(doublings):
            self.add_module(f"conv_up{n + 1}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        first = self.conv_first(x)
        y = first + self.conv_body(self.body(first))
        for n in range(self.doublings):
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(self.get_submodule(f"conv_up{n + 1}")(y), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(y), 0.2))


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off the keys, in any of the three naming schemes."""
    state = rename(state, {})
    first, last = state.get("conv_first.weight"), state.get("conv_last.weight")
    blocks = numbered(state, "body.")
    growth = next((t for n, t in state.items() if n.endswith("rdb1.conv1.weight")), None)
    if first is None or last is None or growth is None or not blocks:
        return None
    out_channels = last.shape[0]
    fold = next((u for u in (2, 4) if first.shape[1] == out_channels * u * u), 1)
    return {
        "in_channels": first.shape[1] // fold**2,
        "out_channels": out_channels,
        "width": first.shape[0],
        "blocks": max(blocks) + 1,
        "growth": growth.shape[0],
        "doublings": len(numbered(state, "conv_up")),
        "unshuffle": fold,
    }


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """From the names RRDB_trunk..., or model.N.sub..., to the present ones."""
    if any(_OLDEST_BLOCK.match(name) for name in state):
        return _rename_oldest(state)
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in _OLD:
            name = pattern.sub(replacement, name)
        result[name] = tensor
    return result


def _rename_oldest(state: State) -> dict[str, Tensor]:
    """model.0, model.1.sub.*, then one convolution per doubling, conv_hr and conv_last."""
    outer = list(convolutions(state, "model."))
    names = [f"conv_up{n + 1}" for n in range(len(outer) - 3)] + ["conv_hr", "conv_last"]
    layers = {f"model.{n}.": f"{new}." for n, new in zip(outer[1:], names, strict=False)}
    layers["model.0."] = "conv_first."
    after_blocks = max(numbered(state, "model.1.sub."))
    layers[f"model.1.sub.{after_blocks}."] = "conv_body."
    result = {}
    for name, tensor in state.items():
        block = _OLDEST_BLOCK.match(name)
        if block:
            name = f"body.{block[1]}.rdb{block[2]}.conv{block[3]}." + name[block.end() :]
        else:
            old = next((o for o in layers if name.startswith(o)), "")
            name = layers.get(old, "") + name.removeprefix(old)
        result[name] = tensor
    return result


def ports(
    *,
    in_channels: int = 3,
    out_channels: int = 3,
    doublings: int = 2,
    unshuffle: int = 1,
    **_: Any,
) -> Ports:
    """Images in [0, 1]."""
    scale = 2**doublings // unshuffle
    return super_resolution_ports(in_channels, out_channels, scale, (0.0, 1.0))


RRDB = Architecture(
    name="rrdb",
    summary="RRDBNet of ESRGAN and Real-ESRGAN, super-resolution x1 to x8 (Wang et al.)",
    task="super-resolution",
    recognise=recognise,
    build=RrdbNet,
    ports=ports,
    rename=rename,
)
