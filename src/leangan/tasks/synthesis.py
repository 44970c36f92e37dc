"""Noise to image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from leangan.generator import Generator
from leangan.tasks.arrays import array_data, array_examples, drawn_data, draws_inputs
from leangan.tasks.base import Data, Sample, Score
from leangan.tasks.quality import image_quality


class Synthesis:
    """Latents in, pictures out (DCGAN, StyleGAN)."""

    name = "synthesis"
    summary = "noise to image; needs no --data (.npy files of latents may be given)"
    floor = "psnr>=40"
    losses: Mapping[str, float] | None = None

    def matches(self, generator: Generator) -> bool:
        """All inputs are latents or noise, and the first output is an image."""
        return draws_inputs(generator) and generator.signature.outputs[0].kind == "image"

    def data(
        self, generator: Generator, source: Path | None, *, limit: int = 48, seed: int = 0
    ) -> Data:
        """Latents drawn from N(0, 1) (uniform where the signature states a range), or read."""
        if source is None:
            return drawn_data(generator, limit=limit, seed=seed)
        return array_data(generator, source, limit=limit, seed=seed)

    def examples(
        self,
        generator: Generator,
        source: Path | None,
        *,
        seed: int = 0,
        without: Collection[str] = (),
    ) -> Iterator[Sample]:
        """Latents: drawn, or those of the files."""
        return array_examples(generator, source, seed=seed, without=without)

    def quality(
        self,
        generator: Generator,
        samples: Sequence[Sample],
        reference: Sequence[Tensor],
        output: Sequence[Tensor],
    ) -> dict[str, Score]:
        """PSNR, SSIM, perceptual distance, mean shift."""
        return image_quality(generator.signature.outputs[0], reference, output)
