"""Pictures: files of any mode in, 8-bit files out, and the way to and from a generator's port."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from leangan.errors import LeanganError
from leangan.files import atomic
from leangan.generator import Port

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of R, G and B, full range."""

_CONVERTED = {
    "RGBA": "alpha channel kept apart",
    "P": "palette expanded to RGB",
    "PA": "palette expanded to RGB",
    "L": "grey repeated to RGB",
    "LA": "grey repeated to RGB",
    "1": "black and white repeated to RGB",
    "I": "16-bit grey repeated to RGB",
    "CMYK": "CMYK converted to RGB without a colour profile",
}
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Picture:
    """One picture, whatever its file held."""

    name: str
    """File name without the folder."""
    rgb: Tensor
    """(3, H, W) float32 in [0, 1]."""
    alpha: Tensor | None = None
    """(H, W) float32 in [0, 1], None when the file has no transparency."""
    notes: tuple[str, ...] = ()
    """What was converted, in words that begin with the name."""


def list_images(source: Path | str) -> list[Path]:
    """The picture files of a folder and of its direct subfolders, sorted; a file stands for itself.

    Raises:
        LeanganError: there is no such file or folder, or no picture in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise LeanganError(f"There is no file or folder {source}.")
    found = [*source.glob("*"), *source.glob("*/*")]
    # A leading dot marks hidden files; file managers leave thumbnails of that kind.
    files = [
        f
        for f in found
        if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".") and f.is_file()
    ]
    if not files:
        kinds = ", ".join(sorted(e[1:] for e in EXTENSIONS))
        raise LeanganError(f"Folder {source} holds no picture ({kinds}).")
    return sorted(files)


def read_image(path: Path | str) -> Picture:
    """Read a picture of any usual mode, EXIF orientation applied.

    RGB, RGBA, palettes, grey with and without alpha, black and white, 16-bit grey, CMYK. The
    first frame stands for a file of several.

    Raises:
        LeanganError: no such file, no picture, cut short, or more pixels than Pillow's limit.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _picture(path.name, image)
    except LeanganError:
        raise
    except FileNotFoundError as error:
        raise LeanganError(f"There is no picture {path}.") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise LeanganError(
            f"{path} has more than {limit} million pixels; cut it into parts first."
        ) from error
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise LeanganError(
            f"{path} is no picture that can be read, or it is damaged or cut short."
        ) from error


def _picture(name: str, image: Image.Image) -> Picture:
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # of phones: one photo
        notes.append(f"only the first of its {getattr(image, 'n_frames', 1)} frames is used")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        notes.append("turned upright as its EXIF orientation says")
    mode = image.mode.split(";")[0]
    if mode in _CONVERTED:
        notes.append(_CONVERTED[mode])
    elif mode != "RGB":
        notes.append(f"{mode} converted to RGB")
    image = ImageOps.exif_transpose(image)
    alpha = None
    if mode in ("I", "F"):
        values = np.array(image, dtype=np.float32)
        if mode == "F" or values.min() < 0 or values.max() > 65535:
            raise LeanganError(
                f"{name} holds {'float' if mode == 'F' else '32-bit'} values, whose white is not "
                "known; save it with 8 or 16 bits a channel."
            )
        rgb = torch.from_numpy(values / 65535).expand(3, -1, -1).contiguous()
    else:
        if image.has_transparency_data:
            planes = _unit(image.convert("RGBA"))
            rgb, alpha = planes[:3], planes[3]
            if mode != "RGBA":
                notes.append(_CONVERTED["RGBA"])
        else:
            rgb = _unit(image.convert("RGB"))
    return Picture(name, rgb, alpha, tuple(f"{name}: {note}" for note in notes))


def _unit(image: Image.Image) -> Tensor:
    """(C, H, W) in [0, 1] of an 8-bit picture."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def to_8_bit(picture: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """An 8-bit picture, clipped to [0, 1] first: values outside would wrap around.

    Args:
        picture: (1, H, W) or (3, H, W).
        alpha: (H, W) in [0, 1].

    Raises:
        LeanganError: another number of channels, or NaN or Inf among the values.
    """
    if picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise LeanganError(
            f"A tensor of shape {tuple(picture.shape)} is no picture of 1 or 3 channels."
        )
    if not bool(torch.isfinite(picture).all()):
        raise LeanganError("The generator put out NaN or Inf, which is no picture.")
    bands = [*picture, alpha] if alpha is not None else [*picture]
    levels = [(b.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy() for b in bands]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(levels)]
    return Image.merge(mode, [Image.fromarray(level) for level in levels])


def write_image(path: Path | str, picture: Tensor, alpha: Tensor | None = None) -> Path:
    """Write an 8-bit file of the kind its extension names, atomically; see `to_8_bit`.

    Returns:
        The path written.

    Raises:
        LeanganError: as `to_8_bit`; the extension is no picture's, or cannot hold the alpha.
    """
    path = Path(path)
    image = to_8_bit(picture, alpha)
    if path.suffix.lower() not in EXTENSIONS:
        raise LeanganError(f"{path} has no picture's extension; name it {path.stem}.png.")
    if alpha is not None and path.suffix.lower() in (".jpg", ".jpeg", ".bmp"):
        raise LeanganError(f"{path} cannot hold transparency; name it {path.stem}.png.")
    with atomic(path) as temporary:
        image.save(temporary)
    return path


def to_port(rgb: Tensor, port: Port) -> Tensor:
    """A picture as the port wants it: channels (grey by BT.601 luma), range, layout, batch.

    Args:
        rgb: (3, H, W) in [0, 1].
        port: of kind image. A batch that it fixes is filled with copies.

    Raises:
        UnknownValue: the port's value range is not known.
        LeanganError: its layout or its number of channels is no picture's.
    """
    low, high = port.known_range()
    channels = dict(zip(port.layout, port.shape, strict=True)).get("C", 1) or 3
    if channels == 1:
        rgb = (rgb * rgb.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    elif channels != 3:
        raise LeanganError(
            f"Input {port.name!r} has {channels} channels; pictures are fed to 1 or 3. "
            "Give the data as .npy or .npz files with --task arrays."
        )
    _check_layout(port)
    x = rgb[None] * (high - low) + low
    letters = "NCHW"
    for letter in "NC":
        if letter not in port.layout:
            x = x.squeeze(letters.index(letter))
            letters = letters.replace(letter, "")
    x = x.permute([letters.index(letter) for letter in port.layout])
    if "N" in port.layout:
        axis = port.layout.index("N")
        x = x.repeat_interleave(port.shape[axis] or 1, axis)
    return x.contiguous()


def from_port(tensor: Tensor, port: Port) -> Tensor:
    """The pictures that a port's tensor holds: (N, C, H, W), scaled and clipped to [0, 1].

    Raises:
        UnknownValue: the port's value range is not known.
        LeanganError: its layout is no picture's.
    """
    low, high = port.known_range()
    _check_layout(port)
    x = tensor.permute([port.layout.index(letter) for letter in "NCHW" if letter in port.layout])
    if "C" not in port.layout:
        x = x.unsqueeze(-3)
    if "N" not in port.layout:
        x = x.unsqueeze(0)
    return (x.float() - low).div_(high - low).clamp_(0, 1)  # in place: it may be gigabytes


def is_image(port: Port) -> bool:
    """Whether the port is of kind image and laid out as one (an MLP's flat digits are not)."""
    return port.kind == "image" and {"H", "W"} <= set(port.layout) <= set("NCHW")


def _check_layout(port: Port) -> None:
    if not {"H", "W"} <= set(port.layout) <= set("NCHW"):
        raise LeanganError(f"Port {port.name!r} of layout {port.layout!r} holds no pictures.")
