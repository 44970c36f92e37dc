"""Attention over pixels, windows and channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leangan.testing.patterns.base import Pattern, Shapes
from leangan.testing.patterns.plain import IMAGES, conv


class SelfAttention(nn.Module):
    """SAGAN: query, key and value by 1x1 convolutions, a learned share of the result added."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 12), conv(12, 3)
        self.query, self.key, self.value = conv(12, 5, 1), conv(12, 5, 1), conv(12, 8, 1)
        self.out, self.gamma = conv(8, 12, 1), nn.Parameter(torch.tensor([0.7]))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        n, _, h, w = x.shape
        query, key, value = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        scores = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
        y = torch.bmm(value, scores.transpose(1, 2)).view(n, 8, h, w)
        return self.last(self.gamma * self.out(y) + x)


class WindowAttention(nn.Module):
    """SwinIR: windows of 4x4 by view and permute, heads, a bias for each relative position."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.heads = fused, 3
        self.head, self.last, self.norm = conv(3, 12), conv(12, 3), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.table = nn.Parameter(torch.randn(49, 3))
        self.mlp = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12))
        place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
        step = place.flatten(1)[:, :, None] - place.flatten(1)[:, None] + 3
        self.register_buffer("index", step[0] * 7 + step[1])

    def attend(self, x: Tensor) -> Tensor:
        """(windows, 16, 12) -> the same."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        bias = (
            self.table[self.get_buffer("index").view(-1)]
            .view(n, n, -1)
            .permute(2, 0, 1)
            .contiguous()
        )
        if self.fused:
            x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        else:
            scores = query * (c // self.heads) ** -0.5 @ key.transpose(-2, -1) + bias[None]
            x = scores.softmax(dim=-1) @ value
        return self.proj(x.transpose(1, 2).reshape(b, n, c))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 8, 12) -> (N, 3, 8, 12): sizes are literals, the export of free ones is slow."""
        x = self.head(image).permute(0, 2, 3, 1)
        n, c = x.shape[0], x.shape[3]
        y = self.norm(x).view(n, 2, 4, 3, 4, c).permute(0, 1, 3, 2, 4, 5)
        y = self.attend(y.reshape(-1, 16, c))
        y = y.view(n, 2, 3, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 12, c)
        x = x + y
        x = x + self.mlp(x)
        return self.last(x.permute(0, 3, 1, 2))


class ChannelAttention(nn.Module):
    """Restormer: attention between channels, so that all of a head's scores must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.qkv, self.out = conv(3, 8), conv(8, 24, 1), conv(8, 8, 1)
        self.last, self.temperature = conv(8, 3), nn.Parameter(torch.rand(2, 1, 1) + 0.5)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = self.head(image)
        n, c, h, w = x.shape
        query, key, value = (p.view(n, 2, c // 2, h * w) for p in self.qkv(x).chunk(3, dim=1))
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        scores = (query @ key.transpose(-2, -1)) * self.temperature
        return self.last(x + self.out((scores.softmax(dim=-1) @ value).view(n, c, h, w)))


class SqueezeExcite(nn.Module):
    """The mean of each channel, through two layers, scales the channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 12), conv(12, 3)
        self.squeeze, self.excite = nn.Linear(12, 5), nn.Linear(5, 12)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        scale = F.adaptive_avg_pool2d(x, 1).flatten(1)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(scale))))
        return self.last(x * scale[:, :, None, None])


class Cbam(nn.Module):
    """Channels scaled by pooled means and maxima, pixels by mean and maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 12), conv(12, 3)
        self.squeeze, self.excite, self.spatial = conv(12, 4, 1), conv(4, 12, 1), conv(2, 1, 7)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        x = F.relu(self.head(image))
        pooled = (x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True))
        one, other = (self.excite(F.relu(self.squeeze(p))) for p in pooled)
        x = x * torch.sigmoid(one + other)
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return self.last(x * torch.sigmoid(self.spatial(maps)))


def _window() -> nn.Module:
    return WindowAttention(fused=False)


def _window_fused() -> nn.Module:
    return WindowAttention(fused=True)


_LAST = ("last.weight",)
_FIXED: tuple[Shapes, Shapes] = (((2, 3, 8, 12),), ((3, 3, 8, 12),))
_WINDOW = {"head.weight": 12, "proj.weight": 12, "mlp.0.weight": 16}

PATTERNS = (
    Pattern("self-attention", SelfAttention, IMAGES, {"head.weight": 12, "query.weight": 5,
            "key.weight": 5, "value.weight": 8}, _LAST),
    Pattern("window-attention", _window, _FIXED, _WINDOW, _LAST),
    Pattern("window-attention-fused", _window_fused, _FIXED, _WINDOW, _LAST),
    Pattern("channel-attention", ChannelAttention, IMAGES, {"head.weight": 8}, _LAST),
    Pattern("squeeze-excite", SqueezeExcite, IMAGES, {"head.weight": 12, "squeeze.weight": 5},
            _LAST),
    Pattern("cbam", Cbam, IMAGES, {"head.weight": 12, "squeeze.weight": 4},
            ("spatial.weight", "last.weight")),
)  # fmt: skip
