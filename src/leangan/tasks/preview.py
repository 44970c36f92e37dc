"""Samples side by side, for the report."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
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


def panels(
    signature: Signature, sample: Sample, reference: Tensor, output: Tensor
) -> dict[str, Image.Image]:
    """What went in, what should come out, what came out, and the difference.

    Args:
        signature: of the generator.
        sample: what went in.
        reference: the original's first output, in the output port's layout and range.
        output: the compressed one's, likewise.

    Returns:
        Pictures by "input" (where it is one), "reference", "output" and "difference" (amplified
        `AMPLIFIED` times); empty when the output is no picture.
    """
    port, source = signature.outputs[0], signature.inputs[0]
    if not is_image(port):
        return {}
    a, b = (_first(x, port) for x in (reference, output))
    shown = {"reference": a, "output": b, "difference": ((a - b).abs() * AMPLIFIED).clamp(0, 1)}
    if is_image(source) and source.range is not None:
        shown = {"input": _first(sample.inputs[0], source), **shown}
    return {name: _enlarged(picture) for name, picture in shown.items()}


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


def _enlarged(picture: Tensor) -> Image.Image:
    zoom = max(1, -(-PANEL // max(picture.shape[1:])))
    size = [n * zoom for n in picture.shape[1:]]
    return to_8_bit(F.interpolate(picture[None], size, mode="nearest")[0])
