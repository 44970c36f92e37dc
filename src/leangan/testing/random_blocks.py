"""The blocks that random networks are made of.

Each is a function of what comes in, a wanted width and a variant, and returns a module
`(x, style) -> x` that knows what it puts out, or None where it cannot stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from leangan.testing.patterns.families import Modulated


@dataclass(frozen=True)
class Features:
    """Feature maps between two blocks."""

    channels: int
    level: int
    """How often they were enlarged by 2 since the start; negative when made smaller."""
    style: int
    """Length of the style vector."""


Forward = Callable[["Made", Tensor, Tensor], Tensor]


class Made(nn.Module):
    """A block: parts by name, and a function that applies them."""

    def __init__(self, after: Features, forward: Forward, **parts: nn.Module) -> None:
        super().__init__()
        self.after, self.apply_parts = after, forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(N, C, H, W), (N, S) -> (N, C', H', W')."""
        return self.apply_parts(self, x, style)

    def __getattr__(self, name: str) -> nn.Module:
        part = super().__getattr__(name)
        assert isinstance(part, nn.Module)
        return part


class Value(nn.Module):
    """A learned tensor as a module."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self) -> Tensor:
        """The tensor."""
        return self.value


Maker = Callable[[Features, int, int], Made | None]
BLOCKS: dict[str, Maker] = {}


def _block(maker: Maker) -> Maker:
    BLOCKS[maker.__name__.strip("_")] = maker
    return maker


def _conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def _act(x: Tensor, choice: int) -> Tensor:
    functions = (F.relu, torch.tanh, F.silu, torch.sigmoid, F.gelu, lambda x: F.leaky_relu(x, 0.2))
    return functions[choice % len(functions)](x)


def _divisor(number: int, choice: int) -> int:
    """A divisor of the number, more than 1 where there is one."""
    found = [d for d in range(2, number + 1) if number % d == 0] or [1]
    return found[choice % len(found)]


# Convolutions


@_block
def _plain(at: Features, width: int, choice: int) -> Made | None:
    layer = _conv(at.channels, width, 1 + 2 * (choice % 2))
    return Made(
        replace(at, channels=width), lambda m, x, s: _act(m.conv(x), choice // 2), conv=layer
    )


@_block
def _grouped(at: Features, width: int, choice: int) -> Made | None:
    groups = _divisor(at.channels, choice)
    outputs = groups * (1 + width % 3)
    return Made(
        replace(at, channels=outputs),
        lambda m, x, s: _act(m.conv(x), choice),
        conv=_conv(at.channels, outputs, 3, groups),
    )


@_block
def _depthwise(at: Features, width: int, choice: int) -> Made | None:
    outputs = at.channels * (1 + choice % 2)
    if outputs > 32:
        return None
    return Made(
        replace(at, channels=outputs),
        lambda m, x, s: _act(m.conv(x), choice),
        conv=_conv(at.channels, outputs, 3, at.channels),
    )


@_block
def _transposed(at: Features, width: int, choice: int) -> Made | None:
    if at.level >= 1:
        return None
    groups = _divisor(at.channels, choice) if choice % 2 else 1
    outputs = groups * max(1, width // groups)
    layer = nn.ConvTranspose2d(at.channels, outputs, 4, 2, 1, groups=groups, bias=choice % 3 > 0)
    after = replace(at, channels=outputs, level=at.level + 1)
    return Made(after, lambda m, x, s: _act(m.conv(x), choice), conv=layer)


@_block
def _down(at: Features, width: int, choice: int) -> Made | None:
    if at.level <= -1:
        return None
    layer = nn.Conv2d(at.channels, width, 4, 2, 1)
    after = replace(at, channels=width, level=at.level - 1)
    return Made(after, lambda m, x, s: _act(m.conv(x), choice), conv=layer)


@_block
def _padded(at: Features, width: int, choice: int) -> Made | None:
    mode = ("reflect", "replicate", "constant")[choice % 3]
    return Made(
        replace(at, channels=width),
        lambda m, x, s: F.relu(m.conv(F.pad(x, [1, 1, 1, 1], mode))),
        conv=nn.Conv2d(at.channels, width, 3),
    )


@_block
def _twice(at: Features, width: int, choice: int) -> Made | None:
    return Made(
        at,
        lambda m, x, s: F.relu(m.conv(F.relu(m.conv(x)))),
        conv=_conv(at.channels, at.channels),
    )


@_block
def _tied(at: Features, width: int, choice: int) -> Made | None:
    one, other = _conv(at.channels, width, 1), _conv(at.channels, width, 1)
    other.weight = one.weight
    return Made(
        replace(at, channels=width),
        lambda m, x, s: F.relu(m.one(x)) + torch.tanh(m.other(x)),
        one=one,
        other=other,
    )


@_block
def _weight_norm(at: Features, width: int, choice: int) -> Made | None:
    return Made(
        replace(at, channels=width),
        lambda m, x, s: _act(m.conv(x), choice),
        conv=weight_norm(_conv(at.channels, width)),
    )


@_block
def _signal(at: Features, width: int, choice: int) -> Made | None:
    return Made(
        replace(at, channels=width),
        lambda m, x, s: m.conv(x.flatten(2)).view(x.shape[0], width, x.shape[2], x.shape[3]),
        conv=nn.Conv1d(at.channels, width, 5, padding=2),
    )


@_block
def _mobile(at: Features, width: int, choice: int) -> Made | None:
    wide = at.channels + width
    return Made(
        at,
        lambda m, x, s: x + m.narrow(F.relu6(m.norm(m.deep(F.relu6(m.wide(x)))))),
        wide=_conv(at.channels, wide, 1),
        deep=_conv(wide, wide, 3, wide),
        norm=nn.BatchNorm2d(wide),
        narrow=_conv(wide, at.channels, 1),
    )


# Norms and slopes


@_block
def _norm(at: Features, width: int, choice: int) -> Made | None:
    c = at.channels
    norms: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.BatchNorm2d(c),
        lambda: nn.InstanceNorm2d(c, affine=True),
        lambda: nn.InstanceNorm2d(c),
        lambda: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
        lambda: nn.GroupNorm(_divisor(c, width), c),
        lambda: nn.GroupNorm(1, c),
        lambda: nn.PReLU(c),
        lambda: nn.PReLU(),
        lambda: nn.BatchNorm2d(c, affine=False),
    )
    return Made(at, lambda m, x, s: m.norm(x), norm=norms[choice % len(norms)]())


@_block
def _channels_last(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        y = F.gelu(m.linear(m.norm(x.permute(0, 2, 3, 1))))
        return y.permute(0, 3, 1, 2)

    return Made(
        replace(at, channels=width),
        forward,
        norm=nn.LayerNorm(at.channels) if choice % 2 else nn.Identity(),
        linear=nn.Linear(at.channels, width),
    )


@_block
def _pixel_norm(at: Features, width: int, choice: int) -> Made | None:
    if choice % 2:
        return Made(at, lambda m, x, s: F.normalize(x, dim=1))
    return Made(at, lambda m, x, s: x * torch.rsqrt((x**2).mean(1, keepdim=True) + 1e-8))


@_block
def _scale(at: Features, width: int, choice: int) -> Made | None:
    return Made(at, lambda m, x, s: x * m.scale() + 0.1, scale=Value(1, at.channels, 1, 1))


@_block
def _adain(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        affine = m.affine(F.relu(m.mapping(style)))
        if choice % 2:
            scale, shift = affine.chunk(2, dim=1)
        else:
            scale, shift = affine.view(-1, at.channels, 2).unbind(2)
        return m.norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]

    return Made(
        at,
        forward,
        norm=nn.InstanceNorm2d(at.channels),
        mapping=nn.Linear(at.style, width),
        affine=nn.Linear(width, 2 * at.channels),
    )


@_block
def _spade(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        hidden = F.relu(m.shared(F.avg_pool2d(x, 3, 1, 1)))
        return m.norm(x) * (1 + m.gamma(hidden)) + m.beta(hidden)

    return Made(
        at,
        forward,
        norm=nn.BatchNorm2d(at.channels, affine=False),
        shared=_conv(at.channels, width),
        gamma=_conv(width, at.channels, 1),
        beta=_conv(width, at.channels, 1),
    )


@_block
def _modulated(at: Features, width: int, choice: int) -> Made | None:
    layer = Modulated(at.channels, width, 1 + 2 * (choice % 2), demodulate=choice % 3 > 0)
    layer.affine = nn.Linear(at.style, at.channels)
    return Made(
        replace(at, channels=width), lambda m, x, s: F.leaky_relu(m.conv(x, s), 0.2), conv=layer
    )


# Moving channels about


@_block
def _gate(at: Features, width: int, choice: int) -> Made | None:
    if at.channels % 2 or at.channels < 4:
        return None

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1) if choice % 2 else (x[:, ::2], x[:, 1::2])
        return torch.tanh(a) * torch.sigmoid(b)

    return Made(replace(at, channels=at.channels // 2), forward)


@_block
def _part(at: Features, width: int, choice: int) -> Made | None:
    """A part of the channels goes through a convolution, the rest past it."""
    if at.channels < 3:
        return None
    first = 1 + choice % (at.channels - 1)

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        a, b = x.split([first, at.channels - first], dim=1)
        return torch.cat([b, F.relu(m.conv(a))], dim=1)

    after = replace(at, channels=at.channels - first + width)
    return Made(after, forward, conv=_conv(first, width, 1))


@_block
def _shuffle(at: Features, width: int, choice: int) -> Made | None:
    """Convolution to four times the width, PixelShuffle."""
    if at.level >= 1:
        return None
    after = replace(at, channels=width, level=at.level + 1)
    return Made(
        after,
        lambda m, x, s: m.slopes(F.pixel_shuffle(m.conv(x), 2)),
        conv=_conv(at.channels, 4 * width, 1),
        slopes=nn.PReLU(width) if choice % 2 else nn.ReLU(),
    )


@_block
def _unshuffle(at: Features, width: int, choice: int) -> Made | None:
    if at.level <= -1 or at.channels > 8:
        return None
    after = replace(at, channels=4 * at.channels, level=at.level - 1)
    return Made(after, lambda m, x, s: F.pixel_unshuffle(x, 2))


@_block
def _deal(at: Features, width: int, choice: int) -> Made | None:
    """Channel shuffle by view and transpose, or a flip, a roll or a repeat."""
    groups = _divisor(at.channels, choice)

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    kinds: tuple[Forward, ...] = (
        forward,
        lambda m, x, s: torch.flip(x, [1]),
        lambda m, x, s: torch.roll(x, 1, 1),
    )
    if choice % 4 == 3 and at.channels <= 8:
        return Made(replace(at, channels=2 * at.channels), lambda m, x, s: x.repeat(1, 2, 1, 1))
    return Made(at, kinds[choice % 3])


@_block
def _residual(at: Features, width: int, choice: int) -> Made | None:
    return Made(
        at,
        lambda m, x, s: x + 0.2 * m.second(_act(m.first(x), choice)),
        first=_conv(at.channels, width),
        second=_conv(width, at.channels, 1),
    )


@_block
def _dense(at: Features, width: int, choice: int) -> Made | None:
    if at.channels > 16:
        return None

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        y = F.relu(m.first(x))
        z = F.relu(m.second(torch.cat([x, y], dim=1)))
        return torch.cat([x, y, z] if choice % 2 else [z, x], dim=1)

    channels = at.channels + 2 + (width if choice % 2 else 0)
    return Made(
        replace(at, channels=channels),
        forward,
        first=_conv(at.channels, width),
        second=_conv(at.channels + width, 2, 1),
    )


@_block
def _unet(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        low = F.relu(m.down(x))
        up = m.norm(m.up(low))
        return torch.cat([up, x], dim=1) if choice % 2 else torch.maximum(m.fit(x), up)

    after = replace(at, channels=width + (at.channels if choice % 2 else 0))
    return Made(
        after,
        forward,
        down=nn.Conv2d(at.channels, width + 1, 4, 2, 1),
        up=nn.ConvTranspose2d(width + 1, width, 4, 2, 1),
        norm=nn.BatchNorm2d(width),
        fit=_conv(at.channels, width, 1),
    )


@_block
def _more_channels(at: Features, width: int, choice: int) -> Made | None:
    """Channels of zeros, of the style, or of the batch's deviation, beside the features."""

    def style_maps(m: Made, x: Tensor, style: Tensor) -> Tensor:
        maps = m.mapping(style)[:, :, None, None].expand(-1, -1, x.shape[2], x.shape[3])
        return torch.cat([maps, x], dim=1)

    def deviation(m: Made, x: Tensor, style: Tensor) -> Tensor:
        spread = ((x - x.mean(0)).square().mean(0) + 1e-4).sqrt().mean()
        return torch.cat([x, spread.expand(x.shape[0], 1, x.shape[2], x.shape[3])], dim=1)

    if choice % 3 == 0:
        after = replace(at, channels=at.channels + width)
        return Made(after, style_maps, mapping=nn.Linear(at.style, width))
    if choice % 3 == 1:
        return Made(replace(at, channels=at.channels + 1), deviation)
    after = replace(at, channels=at.channels + 2)
    return Made(after, lambda m, x, s: F.pad(x, [0, 0, 0, 0, 0, 2]))


@_block
def _maxout(at: Features, width: int, choice: int) -> Made | None:
    """The largest, or the mean, of each few channels."""
    groups = _divisor(at.channels, choice)
    if groups == at.channels:
        return None

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        y = x.unflatten(1, (groups, at.channels // groups))
        return y.amax(2) if choice % 2 else y.mean(2)

    return Made(replace(at, channels=groups), forward)


# Attention


@_block
def _squeeze(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3)) if choice % 2 else F.adaptive_avg_pool2d(x, 1).flatten(1)
        return x * torch.sigmoid(m.excite(F.relu(m.squeeze(pooled))))[:, :, None, None]

    return Made(
        at,
        forward,
        squeeze=nn.Linear(at.channels, width),
        excite=nn.Linear(width, at.channels),
    )


@_block
def _spatial_gate(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return x * torch.sigmoid(m.conv(maps))

    return Made(at, forward, conv=_conv(2, 1))


@_block
def _self_attention(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2) for f in (m.query, m.key, m.value))
        scores = torch.bmm(query.transpose(1, 2), key) / math.sqrt(width)
        y = torch.bmm(value, scores.softmax(-1).transpose(1, 2))
        return x + m.gamma() * y.view(x.shape)

    return Made(
        at,
        forward,
        query=_conv(at.channels, width, 1),
        key=_conv(at.channels, width, 1),
        value=_conv(at.channels, at.channels, 1),
        gamma=Value(1),
    )


@_block
def _heads(at: Features, width: int, choice: int) -> Made | None:
    """Several heads over all pixels as tokens, from one Linear layer."""
    heads, size = 1 + choice % 3, 1 + width // 2

    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = m.norm(x.flatten(2).transpose(1, 2))
        if choice % 4 < 2:
            parts = m.qkv(tokens).view(n, h * w, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            each = m.qkv(tokens).chunk(3, dim=-1)
            parts = tuple(p.view(n, h * w, heads, size).transpose(1, 2) for p in each)
        if choice % 2:
            y = F.scaled_dot_product_attention(*parts)
        else:
            query, key, value = parts
            y = (query * size**-0.5 @ key.transpose(-2, -1)).softmax(-1) @ value
        y = m.out(y.transpose(1, 2).reshape(n, h * w, heads * size))
        return x + y.transpose(1, 2).reshape(n, c, h, w)

    return Made(
        at,
        forward,
        norm=nn.LayerNorm(at.channels),
        qkv=nn.Linear(at.channels, 3 * heads * size),
        out=nn.Linear(heads * size, at.channels),
    )


# Sizes


@_block
def _resize(at: Features, width: int, choice: int) -> Made | None:
    kinds: tuple[tuple[int, Forward], ...] = (
        (1, lambda m, x, s: F.interpolate(x, scale_factor=2, mode="nearest")),
        (1, lambda m, x, s: F.interpolate(x, scale_factor=2, mode="bilinear")),
        (-1, lambda m, x, s: F.max_pool2d(x, 2)),
        (-1, lambda m, x, s: F.avg_pool2d(x, 2)),
        (0, lambda m, x, s: F.max_pool2d(x, 3, 1, 1)),
    )
    step, forward = kinds[choice % len(kinds)]
    if not -1 <= at.level + step <= 1:
        return None
    return Made(replace(at, level=at.level + step), forward)


@_block
def _fourier(at: Features, width: int, choice: int) -> Made | None:
    def forward(m: Made, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho")
        stacked = torch.stack((spectrum.real, spectrum.imag), dim=2).view(n, 2 * c, h, w // 2 + 1)
        stacked = F.relu(m.conv(stacked)).view(n, width, 2, h, w // 2 + 1)
        turned = torch.complex(stacked[:, :, 0], stacked[:, :, 1])
        return torch.fft.irfftn(turned, s=(h, w), dim=(-2, -1), norm="ortho")

    return Made(replace(at, channels=width), forward, conv=_conv(2 * at.channels, 2 * width, 1))
