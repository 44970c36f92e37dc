"""CycleGAN's ResNet generator.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks, ICCV 2017; the network is Johnson, Alahi, Fei-Fei, ECCV 2016.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from leangan.architectures.base import Architecture, Ports, State, convolutions, image_port
from leangan.architectures.norms import (
    Norm,
    batch_norm_caution,
    norm_kind,
    norm_layer,
    without_unused_statistics,
)

_BLOCK = re.compile(r"model\.(\d+)\.\w+\.(\d+)\.\w+")


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions beside a skip: [N, width, H, W] to the same."""

    def __init__(
        self,
        width: int,
        kind: Norm,
        bias: bool,
        padding: Literal["reflect", "zero"],
        dropout: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            if padding == "reflect":
                layers.append(nn.ReflectionPad2d(1))
            layers.append(
                nn.Conv2d(width, width, 3, padding=0 if padding == "reflect" else 1, bias=bias)
            )
            layers.append(norm_layer(kind, width))
            if not last:
                layers.append(nn.ReLU())
                if dropout:
                    layers.append(nn.Dropout(0.5))
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block computes to its input."""
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """Image [N, in, H, W] to image [N, out, H, W], both in [-1, 1]; H and W multiples of 2**downs.

    Args:
        in_channels, out_channels: of the images.
        width: channels after the first convolution ("ngf").
        blocks: residual blocks, 6 or 9 in the paper.
        downs: stride-2 convolutions, 2 in the paper.
        norm: the normalization layers.
        bias: whether the convolutions in front of them have biases.
        padding: inside of the residual blocks.
        dropout: whether the residual blocks hold dropout, which only shifts the layers' numbers.
        upsample: `transpose` for strided transposed convolutions, `resize` for nearest resizing
            in front of a convolution.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        blocks: int = 9,
        downs: int = 2,
        norm: Norm = "instance",
        bias: bool = True,
        padding: Literal["reflect", "zero"] = "reflect",
        dropout: bool = False,
        upsample: Literal["transpose", "resize"] = "transpose",
    ) -> None:
        super().__init__()
        model: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, width, 7, bias=bias),
            norm_layer(norm, width),
            nn.ReLU(),
        ]
        for level in range(downs):
            c = width * 2**level
            model += [
                nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=bias),
                norm_layer(norm, 2 * c),
                nn.ReLU(),
            ]
        model += [
            ResnetBlock(width * 2**downs, norm, bias, padding, dropout) for _ in range(blocks)
        ]
        for level in reversed(range(downs)):
            c = width * 2**level
            if upsample == "transpose":
                model.append(
                    nn.ConvTranspose2d(
                        2 * c, c, 3, stride=2, padding=1, output_padding=1, bias=bias
                    )
                )
            else:
                model += [nn.Upsample(scale_factor=2), nn.Conv2d(2 * c, c, 3, padding=1, bias=bias)]
            model += [norm_layer(norm, c), nn.ReLU()]
        model += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, x: Tensor) -> Tensor:
        """Translate a batch of images."""
        return self.model(x)


def recognise(state: State) -> dict[str, Any] | None:
    """Read the arguments off `model.N` keys; the residual blocks may have any attribute name."""
    inside: dict[int, set[int]] = {}
    for name, tensor in state.items():
        match = _BLOCK.fullmatch(name)
        if match and name.endswith(".weight") and tensor.dim() == 4:
            inside.setdefault(int(match[1]), set()).add(int(match[2]))
    outside = convolutions(state, "model.")
    before = [n for n in outside if inside and n < min(inside)]
    after = [n for n in outside if inside and n > max(inside)]
    if len(before) < 1 or len(after) != len(before) or outside[before[0]].shape[2:] != (7, 7):
        return None
    first, last = outside[before[0]], outside[after[-1]]
    # All blocks are alike: where one lacks a key, the others tell.
    votes = Counter(tuple(sorted(places)) for places in inside.values())
    positions = votes.most_common(1)[0][0]
    known = {(1, 5): ("reflect", False), (1, 6): ("reflect", True)}
    known |= {(0, 3): ("zero", False), (0, 4): ("zero", True)}
    if positions not in known:
        return None
    padding, dropout = known[positions]
    resize = len(after) > 1 and outside[after[0]].shape[0] < outside[after[0]].shape[1]
    return {
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "width": first.shape[0],
        "blocks": max(inside) - min(inside) + 1,
        "downs": len(before) - 1,
        "norm": norm_kind(state, f"model.{before[0] + 1}"),
        "bias": f"model.{before[0]}.bias" in state,
        "padding": padding,
        "dropout": dropout,
        "upsample": "resize" if resize else "transpose",
    }


def rename(state: State, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Call the inside of a block `conv_block`, whatever it was called."""
    renamed = {
        re.sub(r"^(model\.\d+)\.[A-Za-z_]\w*\.(\d+\.\w+)$", r"\1.conv_block.\2", name): tensor
        for name, tensor in state.items()
    }
    return without_unused_statistics(renamed, arguments)


def ports(*, in_channels: int = 3, out_channels: int = 3, **_: Any) -> Ports:
    """Images in [-1, 1], 256x256 as in the paper."""
    size, bounds = (256, 256), (-1.0, 1.0)
    return (
        (image_port("image", in_channels, size, bounds),),
        (image_port("translated", out_channels, size, bounds),),
    )


CYCLEGAN = Architecture(
    name="cyclegan",
    summary="CycleGAN ResNet generator, image to image (Zhu et al. 2017)",
    task="translation",
    recognise=recognise,
    build=ResnetGenerator,
    ports=ports,
    rename=rename,
    caution=batch_norm_caution,
)
