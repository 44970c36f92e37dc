"""Super-resolution: the inputs are made from photos, which then are the truth."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leangan.errors import UsageError
from leangan.generator import Generator
from leangan.measure.image import psnr_y
from leangan.tasks.base import Data, Sample, Score
from leangan.tasks.images import Picture, from_port, to_8_bit, to_port
from leangan.tasks.pictures import (
    Make,
    TooSmall,
    crop,
    needed_folder,
    picture_data,
    picture_examples,
    scale,
    working_size,
)
from leangan.tasks.quality import image_quality, score


class SuperResolution:
    """Pictures in, pictures two or more times larger out (SRGAN, ESRGAN)."""

    name = "super-resolution"
    summary = "image to a larger image; --data is a folder of full-resolution pictures"
    # Noise at 40 dB alone costs a network that is 27 dB from the truth 0.2 dB.
    floor = "psnr>=40,psnr_y_lost<=0.2"
    losses: Mapping[str, float] | None = None

    def matches(self, generator: Generator) -> bool:
        """One image input, and a first output that is a whole number of times larger."""
        factor = scale(generator.signature)
        return len(generator.signature.inputs) == 1 and factor is not None and factor > 1

    def data(
        self, generator: Generator, source: Path | None, *, limit: int = 48, seed: int = 0
    ) -> Data:
        """Crops of the pictures as the truth, and their bicubic reductions as the inputs.

        The input is of the typical size, or less where a picture is small.
        """
        return picture_data(
            needed_folder(generator, source), _maker(generator), limit=limit, seed=seed
        )

    def examples(
        self,
        generator: Generator,
        source: Path | None,
        *,
        seed: int = 0,
        without: Collection[str] = (),
    ) -> Iterator[Sample]:
        """Crops of the typical size, most in other tones and colours, their truth with them.

        A student that saw few photos, none with a blue sky, made the sky of another photo grey.
        Pictures that are too small for the typical size are left out.
        """
        folder, make = needed_folder(generator, source), _maker(generator, whole=True)
        return picture_examples(folder, make, seed=seed, without=without, varied=True)

    def quality(
        self,
        generator: Generator,
        samples: Sequence[Sample],
        reference: Sequence[Tensor],
        output: Sequence[Tensor],
    ) -> dict[str, Score]:
        """As translation, and against ground truth.

        `psnr_y_truth` is the PSNR of the luma to the photo, without as many border pixels as the
        scale is, as in the literature; `psnr_y_lost` is how much lower it is than the original's.
        """
        port = generator.signature.outputs[0]
        result = image_quality(port, reference, output)
        factor = _scale(generator)
        pairs = [
            tuple(psnr_y(from_port(s.truth, port), from_port(x, port), factor) for x in (r, o))
            for s, r, o in zip(samples, reference, output, strict=True)
            if s.truth is not None and min(from_port(s.truth, port).shape[-2:]) > 2 * factor
        ]
        if pairs:
            result["psnr_y_truth"] = score("psnr_y_truth", [own for _, own in pairs])
            result["psnr_y_lost"] = score("psnr_y_lost", [best - own for best, own in pairs])
        return result


def shrink(rgb: Tensor, height: int, width: int) -> Tensor:
    """Reduce by Pillow's antialiased bicubic filter, in 8 bits as a file would hold it.

    Args:
        rgb: (C, H, W) in [0, 1].
        height: wanted, in pixels.
        width: likewise.

    Returns:
        (C, height, width) in [0, 1].
    """
    image = to_8_bit(rgb).resize((width, height), Image.Resampling.BICUBIC)
    levels = np.array(image, dtype=np.float32).reshape(height, width, -1)
    return torch.from_numpy(levels).permute(2, 0, 1) / 255


def _maker(generator: Generator, *, whole: bool = False) -> Make:
    """Of samples; with `whole` all of the typical size, as a batch wants them."""
    factor = _scale(generator)
    port, target = generator.signature.inputs[0], generator.signature.outputs[0]

    def make(picture: Picture, place: tuple[float, float]) -> Sample:
        sizes = []
        for letter, wanted, have in zip(
            "HW", working_size(port), picture.rgb.shape[1:], strict=True
        ):
            axis = port.layout.index(letter)
            # A size that the port fixes is needed whole; another may be any multiple.
            step = wanted if whole else port.shape[axis] or port.multiple_of(axis)
            sizes.append(min(wanted, have // factor) // step * step)
        if not all(sizes):
            raise TooSmall(
                f"{picture.name} is too small ({picture.rgb.shape[2]}x{picture.rgb.shape[1]})."
            )
        height, width = sizes
        truth = crop(picture.rgb, height * factor, width * factor, place)
        reduced = shrink(truth, height, width)
        return Sample(picture.name, (to_port(reduced, port),), to_port(truth, target))

    return make


def _scale(generator: Generator) -> int:
    factor = scale(generator.signature)
    if factor is None:
        raise UsageError(
            f"The output of {generator.name} is not a whole number of times larger than its "
            "input, so this is no super-resolution; choose another --task."
        )
    return factor
