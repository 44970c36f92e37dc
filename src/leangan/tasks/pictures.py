"""From a folder of pictures to samples: which files, which part of each, and a fair split."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator, Port, Signature
from leangan.graph.receptive import receptive_field
from leangan.tasks.base import Data, Sample
from leangan.tasks.images import Picture, is_image, list_images, read_image, to_port
from leangan.tasks.variation import vary

Make = Callable[[Picture, tuple[float, float]], Sample]
"""Makes a sample of the part of a picture at (y, x), each 0 (top, left) to 1; 0.5 is the centre."""

CENTRE = (0.5, 0.5)
_LEAST_PART = 0.5
"""Share of a picture's sides that a part has at least."""


class TooSmall(LeanganError):
    """A picture has too few pixels for one sample."""


def needed_folder(generator: Generator, source: Path | None) -> Path:
    """Where the pictures lie.

    Raises:
        UsageError: nobody said.
    """
    if source is None:
        raise UsageError(f"{generator.name} needs pictures: give a folder with --data.")
    return source


def picture_data(source: Path, make: Make, *, limit: int, seed: int) -> Data:
    """Samples of the pictures under `source`, two thirds for calibration.

    Calibration looks at a random part of each picture, judging at its centre; no file serves
    both, but for a single picture, which is cut in two halves. Unreadable and too small files
    are skipped with a note as long as others remain.

    Raises:
        LeanganError: no such folder, or nothing usable in it; the first reason is given.
        UsageError: `limit` is under 2.
    """
    check_limit(limit)
    rng = random.Random(seed)
    files = list_images(source)
    rng.shuffle(files)
    pairs: list[tuple[Sample, Sample]] = []
    notes: list[str] = []
    refused: list[str] = []
    last: Picture | None = None
    for file in files:
        if len(pairs) == limit:
            break
        place = (rng.random(), rng.random())
        try:
            picture = read_image(file)
            picture = replace(picture, name=_named(source, file))
            pairs.append((make(picture, place), make(picture, CENTRE)))
        except UsageError:  # about the generator, not about this file
            raise
        except LeanganError as error:
            refused.append(str(error))
            continue
        last = picture
        notes.extend(picture.notes)
    notes.extend(f"Skipped: {reason}" for reason in refused)
    if last is None:
        raise LeanganError(f"No picture of {source} can be used. {refused[0]}")
    if len(pairs) == 1:
        first, second = _halves(last)
        notes.append(f"{last.name} is the only picture: one half calibrates, the other judges.")
        try:
            return Data((make(first, CENTRE),), (make(second, CENTRE),), tuple(notes))
        except TooSmall as error:
            raise LeanganError(
                f"{source} holds one usable picture, too small to share between calibration and "
                "judging; give two or more."
            ) from error
    count = calibration_count(len(pairs))
    return Data(
        tuple(part for part, _ in pairs[:count]),
        tuple(centre for _, centre in pairs[count:]),
        tuple(notes),
    )


def picture_examples(
    source: Path,
    make: Make,
    *,
    seed: int,
    without: Collection[str],
    least: tuple[int, int] | None = None,
    varied: bool = False,
) -> Iterator[Sample]:
    """Random parts of the pictures under `source`, every second one mirrored, without end.

    Each round shows every picture once, in another order.

    Args:
        source: a folder or file.
        make: makes a sample of a part of a picture.
        seed: of order, places and mirroring.
        without: names of pictures to leave out; those of `picture_data`.
        least: where `make` resizes, the height and width that it resizes to. A random part of
            half to the whole of the picture's sides is cut first, so that things are seen at many
            scales, but none that would have to be enlarged: blurred pictures teach what no
            photo shows.
        varied: whether most parts get other tones and colours (see `tasks.variation`).

    Raises:
        LeanganError: no usable picture is left.
    """
    rng = random.Random(seed)
    files = [f for f in list_images(source) if _named(source, f) not in without]
    if not files:
        raise LeanganError(
            f"All pictures of {source} are kept to judge on; give more of them to train on."
        )
    refused: dict[Path, str] = {}
    while True:
        rng.shuffle(files)
        for file in files:
            if file in refused:
                continue
            place, mirrored = (rng.random(), rng.random()), rng.random() < 0.5
            share, corner = rng.random(), (rng.random(), rng.random())
            colours = rng.getrandbits(32)
            try:
                picture = _decoded(file, least)
                rgb = picture.rgb
                if least is not None:
                    needed = max(n / have for n, have in zip(least, rgb.shape[1:], strict=True))
                    low = min(1.0, max(_LEAST_PART, needed))
                    height, width = (round(n * (low + (1 - low) * share)) for n in rgb.shape[1:])
                    rgb = cover(crop(rgb, height, width, corner), *least)
                if mirrored:
                    rgb = rgb.flip(2)
                if varied:
                    rgb = vary(rgb, colours)
                yield make(replace(picture, name=_named(source, file), rgb=rgb), place)
            except UsageError:
                raise
            except LeanganError as error:
                refused[file] = str(error)
        if len(refused) == len(files):
            raise LeanganError(
                f"No picture of {source} can be trained on. {next(iter(refused.values()))}"
            )


@functools.lru_cache(maxsize=128)
def _decoded(file: Path, least: tuple[int, int] | None) -> Picture:
    """Decoding a photo takes longer than all that is done with it."""
    return kept_size(read_image(file), least)


def kept_size(picture: Picture, least: tuple[int, int] | None) -> Picture:
    """No larger than needed where parts of at least half its sides are resized to `least`."""
    if least is None:
        return picture
    height, width = (math.ceil(n / _LEAST_PART) for n in least)
    if picture.rgb.shape[1] < height or picture.rgb.shape[2] < width:
        return picture
    return replace(picture, rgb=cover(picture.rgb, height, width))


def _named(source: Path, file: Path) -> str:
    return file.relative_to(source).as_posix() if source.is_dir() else file.name


def flat_samples(generator: Generator) -> tuple[Sample, ...]:
    """White, black and the three primaries, at the working size.

    What is calibrated on photos alone clips such values: a super-resolution network then turned
    green by 17 levels. They belong to the calibration, and to what is looked at afterwards.

    Returns:
        Nothing where flat pictures say nothing: when the input or output is no picture, or the
        network takes each picture's statistics away (InstanceNorm), so that all are alike.
    """
    inputs, outputs = generator.signature.inputs, generator.signature.outputs
    if len(inputs) != 1 or not is_image(inputs[0]) or not is_image(outputs[0]):
        return ()
    if receptive_field(generator) is None:
        return ()
    port = inputs[0]
    height, width = working_size(port)
    colours = {
        "white": (1.0, 1.0, 1.0),
        "black": (0.0, 0.0, 0.0),
        "red": (1.0, 0.0, 0.0),
        "green": (0.0, 1.0, 0.0),
        "blue": (0.0, 0.0, 1.0),
    }
    return tuple(
        Sample(name, (to_port(torch.tensor(rgb)[:, None, None].expand(3, height, width), port),))
        for name, rgb in colours.items()
    )


def calibration_count(samples: int) -> int:
    """Two thirds of `samples` (2 or more), so that both parts get at least one."""
    return min(samples - 1, max(1, round(samples * 2 / 3)))


def check_limit(limit: int) -> None:
    """Refuse a limit that cannot be split."""
    if limit < 2:
        raise UsageError(
            f"{limit} samples cannot be split: one calibrates and another judges; allow 2 or more."
        )


def working_size(port: Port) -> tuple[int, int]:
    """Height and width that samples have: what the port fixes, else its typical size.

    A typical size that is no multiple of what the port asks for is rounded down to one.
    """
    sizes = []
    for letter in "HW":
        axis = port.layout.index(letter)
        multiple = port.multiple_of(axis)
        typical = max(port.typical[axis] // multiple, 1) * multiple
        sizes.append(port.shape[axis] or typical)
    return sizes[0], sizes[1]


def scale(signature: Signature) -> int | None:
    """How many times larger the first output is than the first input, read off typical sizes.

    None when either is no picture, or when it is no whole number, the same both ways.
    """
    source, target = signature.inputs[0], signature.outputs[0]
    if not (is_image(source) and is_image(target)):
        return None
    factors = set()
    for letter in "HW":
        before = source.typical[source.layout.index(letter)]
        after = target.typical[target.layout.index(letter)]
        if after % before:
            return None
        factors.add(after // before)
    return factors.pop() if len(factors) == 1 else None


def cover(rgb: Tensor, height: int, width: int) -> Tensor:
    """Resize so that the picture just covers the size: one side fits, the other is as long or more.

    Args:
        rgb: (C, H, W) in [0, 1].
        height: to be covered, in pixels.
        width: likewise.

    Returns:
        (C, >= height, >= width), antialiased bicubic, clipped to [0, 1].
    """
    ratio = max(height / rgb.shape[1], width / rgb.shape[2])
    size = [max(height, round(rgb.shape[1] * ratio)), max(width, round(rgb.shape[2] * ratio))]
    if size == list(rgb.shape[1:]):
        return rgb
    return F.interpolate(rgb[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def crop(rgb: Tensor, height: int, width: int, place: tuple[float, float]) -> Tensor:
    """The part of (C, H, W) of that size at `place`, see `Make`."""
    top = round((rgb.shape[1] - height) * place[0])
    left = round((rgb.shape[2] - width) * place[1])
    return rgb[:, top : top + height, left : left + width]


def _halves(picture: Picture) -> tuple[Picture, Picture]:
    """Cut across the longer side."""
    axis = 1 if picture.rgb.shape[1] >= picture.rgb.shape[2] else 2
    half = picture.rgb.shape[axis] // 2
    if not half:
        return picture, picture
    first = picture.rgb.narrow(axis, 0, half)
    second = picture.rgb.narrow(axis, picture.rgb.shape[axis] - half, half)
    return replace(picture, rgb=first), replace(picture, rgb=second)
