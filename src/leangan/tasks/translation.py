"""Image to image of the same size: style transfer, colouring, restoration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from leangan.generator import Generator
from leangan.tasks.base import Data, Sample, Score
from leangan.tasks.images import Picture, to_port
from leangan.tasks.pictures import (
    Make,
    cover,
    crop,
    needed_folder,
    picture_data,
    picture_examples,
    scale,
    working_size,
)
from leangan.tasks.quality import image_quality


class Translation:
    """Pictures in, pictures of the same size out (pix2pix, CycleGAN)."""

    name = "translation"
    summary = "image to image of the same size; --data is a folder of pictures"
    floor = "psnr>=45"
    losses: Mapping[str, float] | None = MappingProxyType({"pyramid": 1.0, "perceptual": 0.1})
    """Textures and grain that no student can follow pixel by pixel are to look alike at least."""

    def matches(self, generator: Generator) -> bool:
        """One image input, and a first output that is an image of its size."""
        return len(generator.signature.inputs) == 1 and scale(generator.signature) == 1

    def data(
        self, generator: Generator, source: Path | None, *, limit: int = 48, seed: int = 0
    ) -> Data:
        """Pictures whose shorter side is resized to the typical size, then cropped to it."""
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
        """Parts of pictures at many scales, most with other tones and colours.

        The generator answers for any picture, so varied ones are as right to learn from as photos,
        and a student that has seen few photos fits those few.
        """
        folder, make = needed_folder(generator, source), _maker(generator)
        least = working_size(generator.signature.inputs[0])
        return picture_examples(folder, make, seed=seed, without=without, least=least, varied=True)

    def quality(
        self,
        generator: Generator,
        samples: Sequence[Sample],
        reference: Sequence[Tensor],
        output: Sequence[Tensor],
    ) -> dict[str, Score]:
        """PSNR, SSIM, perceptual distance, mean shift."""
        return image_quality(generator.signature.outputs[0], reference, output)


def _maker(generator: Generator) -> Make:
    port = generator.signature.inputs[0]
    height, width = working_size(port)

    def make(picture: Picture, place: tuple[float, float]) -> Sample:
        part = crop(cover(picture.rgb, height, width), height, width, place)
        return Sample(picture.name, (to_port(part, port),))

    return make
