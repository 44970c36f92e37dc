"""Any generator: inputs from NumPy files, or drawn where they are noise anyway."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from leangan.errors import LeanganError, UsageError
from leangan.generator import Generator
from leangan.tasks.array_files import fit_sizes, list_arrays, read_arrays
from leangan.tasks.base import Data, Sample, Score
from leangan.tasks.images import is_image
from leangan.tasks.pictures import calibration_count, check_limit
from leangan.tasks.quality import image_quality, signal_quality

FAR = 1_000_003
"""Seeds this far apart share no samples."""


class Arrays:
    """Arrays in, arrays out; judged by the signal to error ratio, as signals are."""

    name = "arrays"
    summary = "any generator; --data is a folder of .npy or .npz files"
    floor = "snr>=30"
    losses: Mapping[str, float] | None = None

    def matches(self, generator: Generator) -> bool:
        """Any generator."""
        return True

    def data(
        self, generator: Generator, source: Path | None, *, limit: int = 48, seed: int = 0
    ) -> Data:
        """The arrays of the files, see `read_arrays`; latents and noise are drawn without any."""
        if source is not None:
            return array_data(generator, source, limit=limit, seed=seed)
        _check_drawn(generator)
        return drawn_data(generator, limit=limit, seed=seed)

    def examples(
        self,
        generator: Generator,
        source: Path | None,
        *,
        seed: int = 0,
        without: Collection[str] = (),
    ) -> Iterator[Sample]:
        """Random parts of the files' arrays; latents and noise are drawn without any."""
        if source is None:
            _check_drawn(generator)
        return array_examples(generator, source, seed=seed, without=without)

    def quality(
        self,
        generator: Generator,
        samples: Sequence[Sample],
        reference: Sequence[Tensor],
        output: Sequence[Tensor],
    ) -> dict[str, Score]:
        """Signal to error ratio; the image metrics too when the output is a picture."""
        port = generator.signature.outputs[0]
        scores = signal_quality(reference, output)
        if is_image(port) and port.range is not None:
            scores |= image_quality(port, reference, output)
        return scores


class Vocoder(Arrays):
    """Mel spectrograms or features in, a waveform out."""

    name = "vocoder"
    summary = "mel or features to waveform; --data is a folder of .npy or .npz files"

    def matches(self, generator: Generator) -> bool:
        """The first output is a waveform."""
        return generator.signature.outputs[0].kind == "waveform"


def draws_inputs(generator: Generator) -> bool:
    """Whether all inputs are latents or noise, so that random ones are as good as any."""
    return all(port.kind in ("latent", "noise") for port in generator.signature.inputs)


def drawn_data(generator: Generator, *, limit: int, seed: int) -> Data:
    """`limit` random inputs: standard normal, or uniform where the signature states a range."""
    check_limit(limit)
    names = " + ".join(port.kind or port.name for port in generator.signature.inputs)
    samples = [
        # Far apart seeds: those of seed 0 and seed 1 must not share samples.
        Sample(f"{names} {i}", generator.example({"N": 1}, seed=seed * FAR + i))
        for i in range(limit)
    ]
    count = calibration_count(limit)
    return Data(tuple(samples[:count]), tuple(samples[count:]))


def array_examples(
    generator: Generator, source: Path | None, *, seed: int, without: Collection[str]
) -> Iterator[Sample]:
    """Rows of NumPy files that are not `without`, in random order without end, or drawn inputs.

    Raises:
        LeanganError: no row is left, or a file cannot be read.
    """
    if source is None:
        # Seeds from below zero: those of `drawn_data` are at zero and above.
        yield from (
            Sample(f"drawn {i}", generator.example({"N": 1}, seed=-seed * FAR - i - 1))
            for i in itertools.count()
        )
    rng = random.Random(seed)
    assert source is not None
    ports, rows = generator.signature.inputs, []
    for file in list_arrays(source):
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        held = read_arrays(file, ports)
        titles = [f"{name} row {i}" if len(held) > 1 else name for i in range(len(held))]
        rows += [(t, row) for t, row in zip(titles, held, strict=True) if t not in without]
    if not rows:
        raise LeanganError(f"All of {source} is kept to judge on; give more to train on.")
    while True:
        rng.shuffle(rows)
        yield from (Sample(title, fit_sizes(row, ports, rng)) for title, row in rows)


def _check_drawn(generator: Generator) -> None:
    if not draws_inputs(generator):
        others = ", ".join(
            f"{p.name} ({p.kind or 'of unknown kind'})" for p in generator.signature.inputs
        )
        raise UsageError(
            f"The inputs of {generator.name} cannot be made up: {others}. "
            "Give a folder of .npy or .npz files with --data."
        )


def array_data(generator: Generator, source: Path, *, limit: int, seed: int) -> Data:
    """Samples from NumPy files: no file serves both parts, but a single one, whose rows do.

    Raises:
        LeanganError: a file cannot be read or does not fit the inputs, or there is one row only.
        UsageError: `limit` is under 2.
    """
    check_limit(limit)
    rng = random.Random(seed)
    files = list_arrays(source)
    rng.shuffle(files)
    files = files[:limit]
    if len(files) > 1:
        count = calibration_count(len(files))
        most = calibration_count(limit)
        return Data(
            tuple(_samples(generator, source, files[:count], most, rng)),
            tuple(_samples(generator, source, files[count:], limit - most, rng)),
        )
    samples = _samples(generator, source, files, limit, rng)
    if len(samples) < 2:
        raise LeanganError(
            f"{source} holds one sample, which cannot both calibrate and judge; give two or more."
        )
    count = calibration_count(len(samples))
    note = f"{files[0].name} is the only file: some of its rows calibrate, the others judge."
    return Data(tuple(samples[:count]), tuple(samples[count:]), (note,))


def _samples(
    generator: Generator, source: Path, files: Sequence[Path], most: int, rng: random.Random
) -> list[Sample]:
    """At most `most` samples, as evenly from the files as they allow."""
    ports = generator.signature.inputs
    share = -(-most // len(files))
    samples: list[Sample] = []
    for file in files:
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        rows = list(enumerate(read_arrays(file, ports)))
        label = len(rows) > 1
        for index, row in rng.sample(rows, min(share, len(rows))):
            title = f"{name} row {index}" if label else name
            samples.append(Sample(title, fit_sizes(row, ports, rng)))
    return samples[:most]
