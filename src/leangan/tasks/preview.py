"""Samples side by side, for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from leangan.generator import Port, Signature
from leangan.tasks.base import Sample
from leangan.tasks.images import from_port, is_image, to_8_bit

AMPLIFIED = 8
"""By how much differences are multiplied, so that an eye can see one level of 255."""
PANEL = 256
"""Pixels a side that a panel has at least: smaller pictures are enlarged, pixel by pixel."""
LARGEST_PNG = 300_000
"""Bytes up to which a picture goes into a page without loss."""

_INK, _PAPER = (235, 235, 235), (32, 32, 32)
_HEADER, _GAP = 16, 4


def contact(
    signature: Signature,
    samples: Sequence[Sample],
    reference: Sequence[Tensor],
    output: Sequence[Tensor],
) -> list[Image.Image]:
    """One strip for each sample: input (where it is a picture), original, compressed, difference.

    Args:
        signature: of the generator.
        samples: what went in.
        reference: the original's first output per sample, in the output port's layout and range.
        output: the compressed one's, likewise.

    Returns:
        As many pictures as samples, the panels labelled; none when the output is no picture.
    """
    port = signature.outputs[0]
    if not is_image(port):
        return []
    strips = []
    for sample, original, compressed in zip(samples, reference, output, strict=True):
        a, b = (_first(x, port) for x in (original, compressed))
        panels = {
            "original": a,
            "compressed": b,
            f"difference x{AMPLIFIED}": ((a - b).abs() * AMPLIFIED).clamp(0, 1),
        }
        source = signature.inputs[0]
        if is_image(source) and source.range is not None:
            panels = {"input": _first(sample.inputs[0], source), **panels}
        strips.append(_strip(panels, a.shape[1], a.shape[2]))
    return strips


def to_data_uri(image: Image.Image) -> str:
    """A picture as text for an HTML page: PNG, or JPEG of quality 92 when the PNG is large."""
    kind, data = "png", _encoded(image, "PNG")
    if len(data) > LARGEST_PNG:
        kind, data = "jpeg", _encoded(image.convert("RGB"), "JPEG", quality=92, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(image: Image.Image, kind: str, **settings: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def _first(tensor: Tensor, port: Port) -> Tensor:
    """(3, H, W) of the first picture; NaN, which a broken candidate may hold, becomes black."""
    picture = torch.nan_to_num(from_port(tensor, port)[0])
    return picture.expand(3, -1, -1) if picture.shape[0] == 1 else picture[:3]


def _strip(panels: dict[str, Tensor], height: int, width: int) -> Image.Image:
    """Panels of one size in a row, their labels above."""
    zoom = max(1, -(-PANEL // max(height, width)))
    height, width = height * zoom, width * zoom
    size = (len(panels) * (width + _GAP) - _GAP, height + _HEADER)
    strip = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(strip)
    for place, (label, picture) in enumerate(panels.items()):
        left = place * (width + _GAP)
        enlarged = F.interpolate(picture[None], [height, width], mode="nearest")[0]
        strip.paste(to_8_bit(enlarged), (left, _HEADER))
        draw.text((left + 2, 2), label, fill=_INK)
    return strip
